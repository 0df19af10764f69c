"""Weights files of lgrnet as paths that detectron2's own checkpointer loads.

`MODEL.WEIGHTS: lgrnet://PATH`, or `train.init_checkpoint` of a lazy config, where PATH is "phantom" (the model that
comes with the package), a .safetensors file, a checkpoint's folder, or an official ImageNet .pth file.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from pathlib import Path
from typing import IO, Any

import torch
from detectron2.utils.file_io import PathHandler, PathManager

from lgrnet.checkpoint import resolve
from lgrnet.checkpoint.checkpointer import CheckpointError
from lgrnet.checkpoint.disk import write_atomic
from lgrnet.checkpoint.official import OfficialWeightsError, read_official
from lgrnet.checkpoint.weights import read_weights

SCHEME = "lgrnet:"
TORCH_FILES = (".pth", ".pt", ".tar", ".bin")


class WeightsHandler(PathHandler):
    """lgrnet://PATH -> a local file as detectron2's checkpointer reads it, written once for the same content.

    Relative paths are relative to the current folder. Raises CheckpointError or OfficialWeightsError for a file that
    is missing, damaged, or of another kind. The local files are gone when the process ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folder: tempfile.TemporaryDirectory | None = None

    def _get_supported_prefixes(self) -> list[str]:
        # Python's urlparse, through which detectron2 sends a path, makes lgrnet:/a of lgrnet:///a.
        return [SCHEME]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        content = _torch_bytes(resolve(plain_path(path)))
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="lgrnet")
        local = Path(self._folder.name, f"{hashlib.sha256(content).hexdigest()[:32]}.pth")
        if not local.is_file():
            write_atomic(local, content)
        return str(local)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        if "w" in mode or "a" in mode or "+" in mode:
            raise CheckpointError(f"{path} is opened for writing; {SCHEME}// is only read, write to a plain path")
        return open(self._get_local_path(path), mode, buffering)

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return resolve(plain_path(path)).exists()

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return self._exists(path)


def plain_path(path: str) -> str:
    """The path behind the scheme lgrnet:, with or without slashes."""
    rest = path[len(SCHEME) :]
    return rest[2:] if rest.startswith("//") else rest


def _torch_bytes(path: Path) -> bytes:
    """The bytes of a .pth file {"model": state_dict} with the weights of one of our files, or of an official one."""
    if path.suffix in TORCH_FILES and not path.is_file():
        raise OfficialWeightsError(f"weights file {path} does not exist; give the path of the file after lgrnet://")
    state = read_official(path) if path.suffix in TORCH_FILES else read_weights(path)[0]
    content = io.BytesIO()
    torch.save({"model": state}, content)
    return content.getvalue()


PathManager.register_handler(WeightsHandler(), allow_override=True)
