"""What the documents name is there."""

import re
from pathlib import Path

import pytest

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


def test_every_module_is_on_the_map():
    """The map of files in README.md names every module of the package, the tools and the ops."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    plan = text[text.index("## Map of files") :]
    modules = [*ROOT.glob("lgrnet/*.py"), *ROOT.glob("lgrnet/*/*.py"), *ROOT.glob("tools/*.py")]
    names = {path.stem for path in modules} - {"__init__"}
    ops = {path.parent.name for path in ROOT.glob("ops/*/__init__.py")}
    assert sorted(name for name in names | ops if not re.search(rf"\b{name}\b", plan)) == []
