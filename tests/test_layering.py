"""The rules that keep the house in order, checked over the syntax tree and in fresh interpreters."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A room may import from lower rows only: rooms of one row do not know each other.
ROWS = (
    ("ops", "records", "structures", "config", "distributed", "draws"),
    ("layers", "visualize"),
    ("models", "losses", "data", "evaluation", "checkpoint"),
    ("inference",),
    ("engine",),
    ("detectron2_bridge",),
)
ROW = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
SHIPPED = ("lgrnet", "ops", "tools", "data_prep", "main.py")
WITHOUT_TORCH = ("lgrnet/evaluation", "lgrnet/records", "lgrnet/visualize.py", "lgrnet/data/phantom.py", "data_prep")
WITHOUT_TORCH += ("tools/check_data.py", "tools/data_checks")
OPTIONAL = ("triton", "detectron2", "mamba_ssm", "natten")
TOP = {"lgrnet", "configs", "tools", "ops", "data_prep", "tests"}
IGNORED = {"build", "dist", "runs", "data", "weights", "__pycache__", "htmlcov"}


def files(*places: str) -> list[Path]:
    """The Python files of these folders and files of the project."""
    found: list[Path] = []
    for place in places:
        path = ROOT / place
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path] * path.is_file()
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def shown(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def imports(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Every dotted name that a file imports, `from a import b` as a.b, relative imports made absolute."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield from ((node, f"{module}.{alias.name}") for alias in node.names)


def room_of(path: Path) -> str:
    """The room of a file: the part after lgrnet, `ops` for the top-level folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "lgrnet" else parts[0]


def test_every_room_has_a_row():
    rooms = {p.stem for p in (ROOT / "lgrnet").iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert rooms - {"__init__"} <= set(ROW)


def test_rooms_import_from_lower_rows_only():
    wrong = []
    for path in files("lgrnet", "ops"):
        room = room_of(path)
        if room == "__init__":  # the lazy face of the package stands above everything
            continue
        for node, name in imports(path):
            parts = name.split(".")
            if parts[0] != "lgrnet" or name in ("lgrnet", "lgrnet.__version__"):
                continue
            other = parts[1] if len(parts) > 1 else ""
            if other != room and not ROW.get(other, len(ROWS)) < ROW[room]:
                wrong.append(f"{shown(path, node)} {room} (row {ROW[room]}) imports {name}")
    assert wrong == []


def test_nobody_imports_configs_tests_tools_or_ops_by_its_folder():
    top = ("configs", "tests", "tools", "ops", "main")
    wrong = [
        f"{shown(path, node)} {name}"
        for path in files("lgrnet", "ops", "data_prep", "configs", "tools", "main.py")
        for node, name in imports(path)
        if name.split(".")[0] in top
    ]
    assert wrong == []


def test_data_prep_knows_only_records():
    wrong = [
        f"{shown(path, node)} {name}"
        for path in files("data_prep")
        for node, name in imports(path)
        if name.split(".")[0] == "lgrnet" and not name.startswith("lgrnet.records")
    ]
    assert wrong == []


def test_rooms_without_torch():
    wrong = [
        f"{shown(path, node)} {name}"
        for path in files(*WITHOUT_TORCH)
        for node, name in imports(path)
        if name.split(".")[0] in ("torch", "torchvision", "timm")
    ]
    assert wrong == []


def test_optional_packages_have_one_place():
    allowed = {
        "triton": "triton_kernels.py",
        "mamba_ssm": "peers.py",
        "natten": "peers.py",
        "detectron2": "detectron2_bridge",
    }
    wrong = [
        f"{shown(path, node)} {name}"
        for path in files(*SHIPPED)
        for node, name in imports(path)
        if name.split(".")[0] in allowed and allowed[name.split(".")[0]] not in path.parts
    ]
    assert wrong == []


def forbidden(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """What shipped code must not do, with its place."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Assert):
            yield node, "assert; raise an error that says what was given, expected and to do"
        elif isinstance(node, ast.ExceptHandler) and _is_broad(node):
            yield node, "a broad except that swallows; name the errors"
        elif isinstance(node, ast.Call):
            yield from ((node, reason) for reason in _forbidden_call(node))
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv", "os.system"):
            if path.relative_to(ROOT).as_posix() != "lgrnet/distributed.py" or node.attr == "system":
                yield node, ast.unparse(node)
    for node, name in imports(path):
        root = name.split(".")[0]
        if root in ("pickle", "dill", "cloudpickle", "marshal") and name != "pickle.UnpicklingError":
            yield node, name


def _is_broad(node: ast.ExceptHandler) -> bool:
    caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    broad = any(c is None or ast.unparse(c) in ("Exception", "BaseException") for c in caught)
    return broad and not any(isinstance(n, ast.Raise) for n in ast.walk(node))


def _forbidden_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    options = {k.arg: ast.unparse(k.value) for k in node.keywords}
    if name in ("eval", "exec"):
        yield name
    if options.get("shell") == "True":
        yield "shell=True"
    if name == "torch.load" and options.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if options.get("allow_pickle") == "True":
        yield "allow_pickle=True"


def test_shipped_code_does_nothing_forbidden():
    assert [f"{shown(path, node)} {what}" for path in files(*SHIPPED) for node, what in forbidden(path)] == []


@pytest.mark.parametrize(
    "code",
    [
        "assert x",
        "try:\n    f()\nexcept:\n    pass",
        "try:\n    f()\nexcept (OSError, Exception):\n    g()",
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "subprocess.run('ls', shell=True)",
        "os.environ['HOME']",
        "os.getenv('HOME')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_check_sees_what_is_forbidden(code, monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "sample.py").write_text(code)
    assert len(list(forbidden(tmp_path / "sample.py"))) == 1


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    doc = node.body[0] if ast.get_docstring(node) is not None else None
    return node.end_lineno - node.lineno + 1 - (doc.end_lineno - doc.lineno + 1 if doc else 0)


def test_files_and_functions_are_small():
    wrong = []
    for path in files(*SHIPPED, "tests", "configs", "setup.py"):
        if path.name == "triton_kernels.py":
            continue
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > 400:
            wrong.append(f"{path.relative_to(ROOT)} has {lines} lines, at most 400")
        functions = [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        wrong += [f"{shown(path, f)} {f.name} has {code_lines(f)} lines" for f in functions if code_lines(f) > 40]
    assert wrong == []


def test_public_functions_and_classes_say_what_they_are():
    wrong = []
    for path in files("lgrnet", "ops", "tools", "data_prep", "main.py"):
        if path.name == "__init__.py" and not path.read_text(encoding="utf-8").strip():
            continue
        if ast.get_docstring(tree(path)) is None:
            wrong.append(f"{path.relative_to(ROOT)} has no docstring")
        for node in tree(path).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and ast.get_docstring(node) is None:
                wrong.append(f"{shown(path, node)} {node.name} has no docstring")
    assert wrong == []


def test_no_further_top_level_folder():
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")}
    assert {f for f in folders if not f.endswith(".egg-info")} - IGNORED <= TOP


def fresh(code: str) -> str:
    """What a fresh interpreter at the project's root prints; it must end well."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "statement, absent",
    [
        ("import lgrnet", ("torch", "numpy", "timm", "PIL", "cv2", "omegaconf")),
        ("from lgrnet.evaluation import Evaluator", ("torch", "timm")),
        ("import lgrnet.records, lgrnet.visualize, lgrnet.data.phantom", ("torch", "timm")),
    ],
)
def test_light_imports_stay_light(statement, absent):
    assert fresh(f"import sys; {statement}; print([m for m in {absent} if m in sys.modules])") == "[]"


BLOCKED = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)
sys.meta_path.insert(0, Block())
import importlib, pkgutil
import torch
import lgrnet, lgrnet.ops
names = [m.name for m in pkgutil.walk_packages(lgrnet.__path__, "lgrnet.") if "detectron2_bridge" not in m.name]
skip = ("triton_kernels", "peers")
for name in names:
    if name.rsplit(".", 1)[-1] not in skip:
        importlib.import_module(name)
assert not torch.cuda.is_initialized(), "an import touched CUDA"
assert not any(m in sys.modules for m in {OPTIONAL})
print(len(names))
"""


def test_everything_imports_without_the_optional_packages():
    assert int(fresh(BLOCKED)) > 30
