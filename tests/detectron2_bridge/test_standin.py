"""The stand-in has nothing that the real detectron2 has not."""

from __future__ import annotations

import importlib
import inspect
import types

import pytest

from tests.detectron2_bridge import standin

NAMES = [(module, name) for module, content in standin.MODULES.items() for name in content if name[0] != "_"]


@pytest.mark.peer
@pytest.mark.parametrize("module, name", NAMES, ids=lambda value: value)
def test_names_and_arguments_are_real(module, name):
    real, ours = getattr(importlib.import_module(module), name), standin.MODULES[module][name]
    if not isinstance(ours, type | types.FunctionType) or ours.__name__ == "<lambda>":
        return
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    given = [
        p.name for p in inspect.signature(ours).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    known = inspect.signature(real).parameters
    free = any(p.kind in variable for p in known.values())
    assert free or set(given) <= set(known)


@pytest.mark.peer
def test_methods_and_keys_are_real():
    from detectron2.config import get_cfg

    for kind in ("Instances", "Boxes", "BitMasks", "PolygonMasks"):
        real = getattr(importlib.import_module("detectron2.structures"), kind)
        assert {name for name in vars(standin.STRUCTURES[kind]) if name[0] != "_"} <= set(dir(real))
    assert _keys(standin.get_cfg()) <= _keys(get_cfg())


def _keys(node, prefix: str = "") -> set[str]:
    found = set()
    for key, value in node.items():
        found |= _keys(value, f"{prefix}{key}.") if hasattr(value, "items") else {prefix + key}
    return found
