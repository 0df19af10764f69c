# make demo: train the small model on phantom clips and look at the result    make test: lint, tests, coverage
# Both make .venv first, with your python3, and install into it again only when setup.py or a
# compiled source has changed.
# To use an environment of your own: make test PY=python

PY ?= .venv/bin/python
ifeq ($(PY),.venv/bin/python)
READY := .venv/.installed
endif

.PHONY: demo test lint

demo: $(READY)
	$(PY) tools/demo/phantom.py

# one thread for each of the two workers: more threads than cores make small tensors slower
test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --cov --cov-report=term:skip-covered --cov-fail-under=85 $(PYTEST_ARGS)

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

.venv/.installed: setup.py $(wildcard ops/cpu/*.h ops/cpu/*.cpp ops/*/cpu/*.cpp)
	test -x .venv/bin/python || python3 -m venv .venv
	.venv/bin/python -m pip install --editable ".[dev]"
	touch $@
