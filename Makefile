# make demo: train the small model on phantom clips and look at the result    make test: lint, tests, coverage
# make test-browser: the tests that need Chromium, which Debian's packages have
# Both make .venv first, with your python3, and install into it again only when setup.py or a
# compiled source has changed.
# To use an environment of your own: make test PY=python

PY ?= .venv/bin/python
NEW := import sys; sys.exit(None if sys.version_info >= (3, 10) else \
	f"lgrnet needs Python 3.10 or newer, not {sys.executable}; where that is in .venv, remove the folder")
ifeq ($(PY),.venv/bin/python)
READY := .venv/.installed
endif
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)

.PHONY: demo test test-browser lint

demo: $(READY)
	$(PY) tools/demo/phantom.py

# one thread for each of the two workers: more threads than cores make small tensors slower
test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --cov --cov-report=term:skip-covered --cov-fail-under=85 $(PYTEST_ARGS)

# the pages of reports in a real browser, which is installed where it is missing; screenshots go into runs/browser
test-browser: $(READY)
	command -v chromium || { $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends chromium; }
	$(PY) -m pytest -m browser --screenshots runs/browser tests/evaluation

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

.venv/.installed: setup.py $(wildcard ops/cpu/*.h ops/cpu/*.cpp ops/*/cpu/*.h ops/*/cpu/*.cpp)
	test -x .venv/bin/python || { python3 -c '$(NEW)' && python3 -m venv .venv; }
	.venv/bin/python -c '$(NEW)'
	@# one that was not finished has no pip
	.venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip
	.venv/bin/python -m pip install --editable ".[dev]"
	touch $@
