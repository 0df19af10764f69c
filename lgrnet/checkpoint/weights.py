"""Weights files: safetensors that describe the model they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lgrnet import __version__
from lgrnet.checkpoint.disk import CheckpointError, is_web_page, write_atomic
from lgrnet.records import file_hash

FORMAT = "lgrnet"
WEIGHTS_FILE, MANIFEST_FILE = "weights.safetensors", "manifest.json"
_PICKLES = (".pth", ".pt", ".tar", ".pkl", ".bin", ".ckpt")
_SHOWN = 5


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file, the same for the same content; tensors may live anywhere and share memory."""
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    return _in_order(safetensors.torch.save(plain, dict(metadata) if metadata else None))


def weights_metadata(model_node: str | None, meta: Mapping[str, object] | None = None) -> dict[str, str]:
    """Metadata of a weights file.

    model_node  the model's config node as JSON (lgrnet.config.to_json); None: only a config can build the model
    meta        further facts, stored as JSON each, for example {"input_size": [352, 352], "step": 1000}
    """
    metadata = {"format": FORMAT, "version": __version__}
    if model_node is not None:
        metadata["model"] = model_node
    return metadata | {key: json.dumps(value) for key, value in (meta or {}).items()}


def save_weights(
    path: str | Path, state_dict: Mapping[str, Tensor], model_node: str | None, meta: Mapping[str, object] | None = None
) -> None:
    """Writes a weights file, whole or not at all. Arguments as in `weights_metadata`.

    Raises CheckpointError when the disk is full or not writable.
    """
    write_atomic(Path(path), pack(state_dict, weights_metadata(model_node, meta)))


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors by name, metadata) of a safetensors file, or of the one in a checkpoint's folder.

    Raises CheckpointError when the file is missing, cut, or of another kind, and when it is a checkpoint's but not
    the one that was written.
    """
    path = weights_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no whole safetensors file ({error}); {_advice(path)}") from error
    _check_written(path)
    return found


def read_metadata(path: str | Path) -> dict[str, str]:
    """Only the metadata of a weights file, without its tensors, which are not looked at.

    Raises CheckpointError when the file is missing, cut, or of another kind.
    """
    path = weights_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no whole safetensors file ({error}); {_advice(path)}") from error


def load_weights(model: nn.Module, path: str | Path) -> dict[str, str]:
    """Loads a weights file into a model, every tensor of which must be there; returns the file's metadata.

    Raises CheckpointError with the number and the first names of the missing, unexpected and misshapen tensors,
    and the model that the file was made for; the model is then unchanged.
    """
    state, metadata = read_weights(path)
    load_state(model, state, str(path), metadata)
    return metadata


def load_state(
    model: nn.Module, state: Mapping[str, Tensor], source: str, metadata: Mapping[str, str] | None = None
) -> None:
    """Loads `state` into a model after checking every name and shape; `source` names it in the error."""
    own = model.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    problems = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "misshapen": [
            f"{name} {tuple(tensor.shape)} instead of {shapes[name]}"
            for name, tensor in state.items()
            if name in own and tuple(tensor.shape) != shapes[name]
        ],
    }
    if any(problems.values()):
        raise CheckpointError(_mismatch(type(model).__name__, source, problems, metadata or {}))
    model.load_state_dict(dict(state))


def weights_file(path: str | Path) -> Path:
    """The weights file that `path` names: itself, or the one inside a checkpoint's folder.

    Raises CheckpointError when there is none, and for a pickle or a web page under a wrong name.
    """
    path = Path(path)
    if path.is_dir():
        folder, path = path, path / WEIGHTS_FILE
        if not path.is_file() and (near := sorted(str(f.parent) for f in folder.rglob(f"step_*/{WEIGHTS_FILE}"))):
            raise CheckpointError(f"{folder} holds several checkpoints; give one: {', '.join(near[-5:])}")
    if not path.is_file():
        raise CheckpointError(f"weights file {path} does not exist; give a .safetensors file or a checkpoint's folder")
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} is not a .safetensors file; {_advice(path)}")
    return path


def _check_written(path: Path) -> None:
    """Raises CheckpointError unless a checkpoint's weights file is the one that its manifest tells of."""
    manifest = path.with_name(MANIFEST_FILE)
    if path.name != WEIGHTS_FILE or not manifest.is_file():
        return
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            return  # of something else
        expected = content["files"][WEIGHTS_FILE]["sha256"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"{manifest} does not tell whether {path.name} is whole ({type(error).__name__}: {error}); copy the folder "
            f"again, or {path.name} alone to another one"
        ) from error
    if file_hash(path) != expected:
        raise CheckpointError(f"{path} was changed after it was written; copy it again, or use another one")


def _in_order(content: bytes) -> bytes:
    """A safetensors file with sorted metadata: the library draws their order anew, and a hash tells files apart."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def _advice(path: Path) -> str:
    if is_web_page(path):
        return "it is a web page, not a download: use the link to the raw file"
    with open(path, "rb") as file:
        start = file.read(4)
    if start.startswith((b"PK\x03\x04", b"\x80")) or path.suffix in _PICKLES:
        return (
            "convert a PyTorch file once with `python tools/convert_official.py SRC DST --config_file C` and give DST; "
            "pickles are not read because they can run code"
        )
    return "it may be cut or damaged: copy or download it again"


def _mismatch(model: str, source: str, problems: Mapping[str, list[str]], metadata: Mapping[str, str]) -> str:
    counts = ", ".join(f"{len(names)} {kind}" for kind, names in problems.items())
    details = "; ".join(
        f"{kind}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
        for kind, names in problems.items()
        if names
    )
    origin = f"it was made for {metadata['model']}" if "model" in metadata else "it does not say for which model"
    return (
        f"weights {source} do not fit {model}: {counts} tensors ({details}); {origin}. Give the config it was made with"
    )
