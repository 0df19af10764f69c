"""Weights of a model that detectron2 trained, as a file of lgrnet.

    python -m lgrnet.detectron2_bridge.weights model_final.pth out.safetensors --config-file FILE.yaml [KEY VALUE ...]

`lgrnet.load("out.safetensors")` then needs neither detectron2 nor the config. The other way needs no file: see `paths`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from detectron2.config import CfgNode, get_cfg
from omegaconf import OmegaConf
from torch import Tensor

from lgrnet.checkpoint.checkpointer import CheckpointError, load_state
from lgrnet.checkpoint.weights import save_weights
from lgrnet.config import ConfigError, builds, to_json
from lgrnet.detectron2_bridge.config import add_lgrnet_config, merge_config, statistics
from lgrnet.detectron2_bridge.meta_arch import describe_model, model_class
from lgrnet.models.segmenter import Segmenter


def convert(file: str | Path, target: str | Path, cfg: CfgNode) -> bool:
    """Writes the model of a checkpoint of detectron2 (its .pth file) as a weights file of lgrnet.

    cfg  the config that it was trained with

    Returns whether the file describes its model, so that lgrnet.load(target) needs nothing else; it cannot for a
    backbone of detectron2's own. Raises CheckpointError for a file that is no checkpoint or of another model, and
    ConfigError for pixel statistics that the model of a weights file cannot have.
    """
    state = _read_checkpoint(Path(file))
    model, node = model_class(cfg).from_config(cfg)["model"], description(cfg)
    _check_statistics(cfg, model)
    load_state(model, state, str(file))
    facts = {"input_size": list(cfg.INPUT.CLIP.SIZE), "input_resize": cfg.INPUT.CLIP.RESIZE}
    save_weights(target, model.state_dict(), node, facts)
    return node is not None


def description(cfg: CfgNode) -> str | None:
    """The model of a config as a weights file describes it, JSON; None for a backbone that is not ours."""
    node = describe_model(cfg, builds)
    return None if node is None else to_json(OmegaConf.structured(node))


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m lgrnet.detectron2_bridge.weights", description="weights of detectron2 as a file of lgrnet"
    )
    parser.add_argument("file", help="model_final.pth or another checkpoint of detectron2")
    parser.add_argument("target", help="the .safetensors file to write")
    parser.add_argument("--config-file", "--config", required=True, help="the yaml file it was trained with")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="as in the training")
    given = parser.parse_intermixed_args(words)
    try:
        if Path(given.target).suffix != ".safetensors":
            raise CheckpointError(f"the target {given.target} must end in .safetensors")
        cfg = merge_config(add_lgrnet_config(get_cfg()), given.config_file, given.opts)
        described = convert(given.file, given.target, cfg)
    except (ConfigError, CheckpointError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    how = "lgrnet.load builds it" if described else "its backbone is detectron2's own, so lgrnet.load cannot build it"
    print(f"{given.target} written; {how}")
    return 0


def _read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """The model's tensors in a checkpoint of detectron2."""
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist; detectron2 writes it to OUTPUT_DIR")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        what = f"asks to run {asked[1]}" if asked else "is no torch file"
        raise CheckpointError(f"{path} is refused: it {what}; expected a checkpoint of detectron2's trainer") from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        raise CheckpointError(f"{path} is damaged or no torch file ({str(error)[:200]})") from error
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f'{path} holds no tensors by name under "model"; expected a checkpoint of detectron2')
    return state


def _check_statistics(cfg: CfgNode, model: Segmenter) -> None:
    """Raises ConfigError where the model of a weights file would normalise frames in another way than the training."""
    for name, given in statistics(cfg).items():
        own = getattr(model, name).flatten().tolist()
        if max(abs(value - known) for value, known in zip(given, own, strict=True)) > 1e-6:
            raise ConfigError(
                f"MODEL.{name.upper()} is {list(cfg.MODEL[name.upper()])}, but {type(model).__name__} of a weights "
                f"file always has {[round(255 * known, 3) for known in own]} (in RGB); train with these"
            )


if __name__ == "__main__":
    sys.exit(main())
