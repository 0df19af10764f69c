"""What the documents name is there."""

import os
import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from lgrnet.data.phantom import write

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(ROOT.glob("*.md"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_files_exist(document):
    text = document.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    files = re.findall(r"(?<![\w/])(?:configs|tools|data_prep|tests|lgrnet)/[\w/]+\.py\b", text)
    missing = [name for name in links + files if not (ROOT / name).exists()]
    assert missing == []


def test_the_two_commands_come_first():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.index("make demo") < text.index("make test") < 400


def test_the_loop_of_your_own_runs(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text[text.index("In a loop of your own") :].splitlines()[2:]
    code = "\n".join(line[4:] for line in takewhile(lambda line: not line or line.startswith("    "), lines))
    assert code.count("optimizer.step()") == 1
    write(tmp_path / "data/phantom", num_clips=2, num_frames=4, size=64)
    command = [sys.executable, "-c", f"{code}\nprint(step, loss.item())"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    step, loss = done.stdout.split()
    assert int(step) == 3 and 0 < float(loss) < 100


def test_every_module_is_on_the_map():
    """The map of files in README.md names every module of the package, the tools and the ops."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    plan = text[text.index("## Map of files") :]
    modules = [*ROOT.glob("lgrnet/*.py"), *ROOT.glob("lgrnet/*/*.py"), *ROOT.glob("tools/*.py")]
    names = {path.stem for path in modules} - {"__init__"}
    ops = {path.parent.name for path in ROOT.glob("ops/*/__init__.py")}
    assert sorted(name for name in names | ops if not re.search(rf"\b{name}\b", plan)) == []
