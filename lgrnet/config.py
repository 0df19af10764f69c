"""Configs are plain Python files; this loads one, applies `key=value` overrides and builds its parts.

A file defines exactly `model, criterion, data, optimizer, schedule, train`, each a tree of `builds(Class, ...)`
nodes and plain values. `${data.root}` refers to another value of the same file.
"""

from __future__ import annotations

import difflib
import json
import runpy
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from hydra.errors import InstantiationException
from hydra_zen import get_target, instantiate, make_custom_builds_fn
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

SECTIONS = ("model", "criterion", "data", "optimizer", "schedule", "train")
_HIDDEN = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")
_KINDS = (
    (DictConfig, "a section"),
    (ListConfig, "a list"),
    (str, "text"),
    (bool, "true or false"),
    (int, "a whole number"),
    (float, "a number"),
)
_MISTAKES = (
    SyntaxError,
    ImportError,
    NameError,
    AttributeError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AssertionError,
    OSError,
    RuntimeError,
    OmegaConfBaseException,
)

_RUN = "<run_path>."
"""How runpy calls the module of a file that it runs."""

builds = make_custom_builds_fn(populate_full_signature=True, hydra_convert="all")
"""`builds(Class, argument=value)`: a config node; every argument of the class can be overridden, types are checked."""


class ConfigError(ValueError):
    """A config file or an override is not usable; the message says which key and what to do."""


def run_file(path: str | Path) -> dict[str, Any]:
    """What a Python file defines, by name; like a program it may import modules that stand beside it.

    Raises ConfigError when it is missing or fails to run (with the line).
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        hint = f"; that folder holds {', '.join(near)}" if near else ""
        raise ConfigError(f"config file {path} does not exist{hint}")
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)
    try:
        return runpy.run_path(str(path))
    except ConfigError:  # of a file that this one reads
        raise
    except _MISTAKES as error:
        raise ConfigError(f"config file {path} does not build: {_mistake(error, path)}") from error


def read_config(path: str | Path) -> dict[str, Any]:
    """The six sections of a config file as Python objects, so that another file can vary them.

    Raises ConfigError when the file is missing, fails to run (with the line), or does not define the six sections.
    """
    names = run_file(path)
    missing = [s for s in SECTIONS if s not in names]
    if missing:
        raise ConfigError(
            f"config file {path} does not define {', '.join(missing)}; it must define {', '.join(SECTIONS)}"
        )
    return {section: names[section] for section in SECTIONS}


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> DictConfig:
    """The config of a file with `key=value` overrides applied.

    Raises ConfigError for an unknown key (with the nearest known one), a value of the wrong type, or a
    malformed override.
    """
    return compose(read_config(path), overrides, f"config file {path}")


def compose(sections: Mapping[str, Any], overrides: Iterable[str] = (), source: str = "config") -> DictConfig:
    """The config of six sections with `key=value` overrides applied; `source` names it in errors, as of load_config."""
    try:
        config = OmegaConf.create({k: OmegaConf.structured(v) for k, v in sections.items()})
    except OmegaConfBaseException as error:
        raise ConfigError(f"{source} does not build: {error}") from error
    lost = [name for name in _targets(OmegaConf.to_container(config)) if _RUN in name]
    if lost:
        name = lost[0].rpartition(_RUN)[2]
        raise ConfigError(
            f"{source}: {name} is defined in a config file, where nothing that builds it finds it; put it into a "
            "module beside that file, say my_parts.py, and import it from there"
        )
    for override in overrides:
        _apply(config, override)
    for section in config:
        if config[section] is None:
            raise ConfigError(f"section {section} of {source} is null; every one of {', '.join(SECTIONS)} is needed")
    return config


def to_yaml(config: DictConfig) -> str:
    """The resolved config as YAML text."""
    return OmegaConf.to_yaml(config, resolve=True)


def build(node: Any, *args: Any, **kwargs: Any) -> Any:
    """Builds a node (and everything in it); further arguments go to the outermost call.

    An error in what is built comes out as itself, not as one about configs.
    """
    try:
        return instantiate(node, *args, **kwargs)
    except InstantiationException as error:
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if cause is error:
            raise ConfigError(f"config does not build: {error}") from error
        raise cause from error


def to_json(node: DictConfig) -> str:
    """A config node as JSON, for a weights file's metadata."""
    return json.dumps(OmegaConf.to_container(node, resolve=True))


def build_json(text: str, allowed: Iterable[str]) -> Any:
    """Builds a node from `to_json`, refusing every target that is not in `allowed`.

    Raises ConfigError naming the targets that are not allowed; nothing is imported before that check. An error in
    what is built comes out as itself.
    """
    node = json.loads(text)
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"a model is described by a JSON object with a _target_, not by {text[:40]}")
    refused = sorted(set(_targets(node)) - set(allowed))
    if refused:
        raise ConfigError(f"a weights file may only build the package's models; this one asks for {', '.join(refused)}")
    return build(OmegaConf.create(node))


def _targets(node: Any) -> Iterator[str]:
    """Everything in a plain tree that instantiate would import, or look up elsewhere."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "path" or (str(key).startswith("_") and key not in _HIDDEN):
                yield f"{key}={value}"
            elif key == "_target_":
                yield str(value)
            else:
                yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)
    elif isinstance(node, str) and "${" in node:
        yield f"the interpolation {node}"


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a config, dotted, that a user may override."""
    if isinstance(node, DictConfig):
        for key in node:
            if key in _HIDDEN:
                continue
            yield prefix + str(key)
            if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
                yield from _keys(node[key], f"{prefix}{key}.")
    elif isinstance(node, ListConfig):
        for index, value in enumerate(node):
            yield from _keys(value, f"{prefix}{index}.")


def _apply(config: DictConfig, override: str) -> None:
    key, sign, value = override.partition("=")
    if not sign:
        raise ConfigError(f"override {override!r} is not of the form key=value")
    known = list(_keys(config))
    if key not in known:
        near = difflib.get_close_matches(key, known, n=3, cutoff=0.0)
        raise ConfigError(f"config has no key {key!r}; did you mean {', '.join(near)}?")
    try:
        new = value.strip() if _is_plain_text(config, key, value) else OmegaConf.create(f"value: {value}").value
        OmegaConf.update(config, key, _like(config, key, new, value), merge=False)
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"override {override!r} cannot be applied: {reason}") from error


def _is_plain_text(config: DictConfig, key: str, text: str) -> bool:
    """Whether the text of an override is its value: YAML would cut it at a # that stands in a name."""
    if "#" not in text or text.lstrip().startswith(("'", '"')):
        return False
    parent, _, name = key.rpartition(".")
    holder = OmegaConf.select(config, parent) if parent else config
    if not isinstance(holder, DictConfig) or OmegaConf.is_missing(holder, name):
        return False
    old = holder[name]
    return isinstance(old, str) or (old is None and isinstance(OmegaConf.create(f"value: {text}").value, str))


def _like(config: DictConfig, key: str, new: Any, text: str) -> Any:
    """The new value of a key, checked against the old one where no class says what type it has."""
    parent, _, name = key.rpartition(".")
    holder = OmegaConf.select(config, parent) if parent else config
    if not isinstance(holder, DictConfig) or new is None:
        return new
    if OmegaConf.get_type(holder) is not dict:
        return _annotated(_wanted(holder, name), key, new, text)
    old = None if OmegaConf.is_missing(holder, name) else holder[name]
    if isinstance(old, str) and isinstance(new, bool | int | float):
        return text.strip()
    wanted, given = _kind(old), _kind(new)
    if old is None or wanted == given or (wanted, given) == ("a number", "a whole number"):
        return new
    raise ValueError(f"expected {wanted}, for example {key}={'{...}' if isinstance(old, DictConfig) else old}")


def _wanted(holder: DictConfig, name: str) -> tuple[type, ...]:
    """The plain types that the class of a node says an argument has; none where that is not one of them."""
    try:
        made = get_target(holder)
        hint = get_type_hints(made if is_dataclass(made) else made.__init__).get(name)
    except (AttributeError, NameError, TypeError):
        return ()
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return tuple(kinds) if {str, bool, int, float, NoneType}.issuperset(kinds) else ()


def _annotated(wanted: tuple[type, ...], key: str, new: Any, text: str) -> Any:
    """The new value as one of the wanted types: 007 is text where text is wanted."""
    if not isinstance(new, bool | int | float) or type(new) in wanted:
        return new
    if str in wanted:
        return text.strip()
    if NoneType not in wanted:
        return new  # OmegaConf knows the type and checks it
    if isinstance(new, bool) or not (isinstance(new, int) and float in wanted):
        words = [word for kind, word in _KINDS if kind in wanted]
        raise ValueError(f"{key} is {text.strip()}, expected {' or '.join(words)}")
    return new


def _kind(value: Any) -> str:
    """What a plain value is, in words."""
    return next((word for kind, word in _KINDS if isinstance(value, kind)), type(value).__name__)


def _mistake(error: BaseException, path: Path) -> str:
    """What went wrong in a config file, and in which line of it."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    words = str(error) if isinstance(error, OmegaConfBaseException) else f"{type(error).__name__}: {error}"
    return f"line {lines[-1]}: {words}" if lines else words
