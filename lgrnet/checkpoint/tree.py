"""A training state (nested dicts and lists of tensors and numbers) as tensors by name plus JSON, without pickle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_TENSOR, _ITEMS, _TUPLE, _COUNTER = "__tensor__", "__items__", "__tuple__", "__counter__"


def split_tree(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """(JSON data, tensors by name) of a tree of dicts, lists, tuples, tensors, numbers, strings and None.

    Keys that are no strings (an optimizer numbers its parameters) and tuples come back as they were.
    Raises TypeError for anything else, naming where it stands.
    """
    tensors: dict[str, Tensor] = {}
    return _split(tree, "", tensors), tensors


def join_tree(data: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that `split_tree` took apart. Raises KeyError when a tensor is missing."""
    if isinstance(data, list):
        return [join_tree(value, tensors) for value in data]
    if not isinstance(data, dict):
        return data
    if _TENSOR in data:
        return tensors[data[_TENSOR]]
    if _TUPLE in data:
        return tuple(join_tree(data[_TUPLE], tensors))
    if _COUNTER in data:
        return Counter(dict(data[_COUNTER]))
    if _ITEMS in data:
        return {key: join_tree(value, tensors) for key, value in data[_ITEMS]}
    return {key: join_tree(value, tensors) for key, value in data.items()}


def _split(node: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor):
        while name in tensors:  # {"a.b": x, "a": {"b": y}}
            name += "'"
        tensors[name] = node
        return {_TENSOR: name}
    if node is None or type(node) in (bool, int, float, str):
        return node
    if isinstance(node, Counter):
        return {_COUNTER: list(node.items())}
    if isinstance(node, Mapping):
        items = [(key, _split(value, f"{name}.{key}".lstrip("."), tensors)) for key, value in node.items()]
        plain = all(isinstance(key, str) and not key.startswith("__") for key in node)
        return dict(items) if plain else {_ITEMS: [list(item) for item in items]}
    if isinstance(node, (list, tuple)):
        values = [_split(value, f"{name}.{index}", tensors) for index, value in enumerate(node)]
        return values if isinstance(node, list) else {_TUPLE: values}
    if hasattr(node, "item"):
        return node.item()
    raise TypeError(
        f"training state {name or 'root'} is a {type(node).__name__}; only tensors and plain data are saved"
    )
