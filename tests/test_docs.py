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
    rows = {match[2]: match[0] for match in re.finditer(r"^( {4,6})(\w+)/.*\n(?:\1 {4}.*\n)*", plan, re.M)}
    rooms = ["lgrnet/*", "ops", "tools", "data_prep"]
    missing = []
    for folder in (folder for room in rooms for folder in ROOT.glob(room) if folder.is_dir()):
        parts = [path.stem for path in folder.glob("*.py")] + [path.parent.name for path in folder.glob("*/*.py")]
        names = set(parts) - {"__init__"}
        # A word of a sentence such as "builds its parts" is no name of a module: those stand in their room's row.
        row = rows.get(folder.name, "") if folder.name not in ("configs", "ops") else plan
        missing += [f"{folder.name}/{name}" for name in names if not re.search(rf"\b{name}\b", row)]
    missing += {path.stem for path in ROOT.glob("lgrnet/*.py")} - {"__init__"} - set(re.findall(r"\w+", plan))
    assert sorted(missing) == []
