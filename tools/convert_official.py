r"""Turns a published weights file into ours.

    python tools/convert_official.py ckpt.pth.tar weights/lgrnet.safetensors \
        --config_file configs/sunseg/lgrnet_pvtv2_b2.py
    python tools/convert_official.py pvt_v2_b2.pth weights/pvt_v2_b2.safetensors --backbone \
        --config_file configs/sunseg/lgrnet_pvtv2_b2.py
    python tools/convert_official.py model_valrpt1.pth weights/svanet.safetensors \
        --config_file configs/svanet/svanet_r50.py model.net.gate=average

The first takes a checkpoint of the published LGRNet, SSFormer (with its ablation and its reproduction study) or SvANet,
whichever the config's model is, and writes weights that `lgrnet.load` reads without a config. The second takes ImageNet
weights of the backbone alone (PVTv2, MiT or Res2Net), for train.backbone_weights. The third changes the config, as
main.py does, for a file of another configuration. Nothing in the file is run. Every name that is missing, unexpected or
reshaped is printed; the exit status is 2, and nothing is written, unless all are accounted for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgrnet.checkpoint import input_facts, official_stills, official_svanet  # noqa: E402
from lgrnet.checkpoint.disk import CheckpointError, check_apart  # noqa: E402
from lgrnet.checkpoint.official import (  # noqa: E402
    OfficialWeightsError,
    Translation,
    backbone_to_ours,
    read_official,
    to_ours,
)
from lgrnet.checkpoint.weights import read_metadata, save_weights  # noqa: E402
from lgrnet.config import ConfigError, build, load_config, to_json  # noqa: E402


def convert(
    source: Path, destination: Path, config_file: Path, backbone: bool = False, overrides: Sequence[str] = ()
) -> Translation:
    """Translates `source` for the config's model and writes `destination`, if everything is accounted for.

    backbone   the file holds ImageNet weights of the backbone, which the written file then holds under its own names
    overrides  `key=value` changes of the config

    Raises ConfigError, OfficialWeightsError or CheckpointError for a config, source or destination that is unusable.
    """
    if destination.suffix != ".safetensors":
        raise CheckpointError(f"{destination} is no name for weights; give one that ends in .safetensors")
    check_apart(destination, source)
    if source.suffix == ".safetensors" and "model" in read_metadata(source):
        raise CheckpointError(f"{source} is a weights file of lgrnet already and needs no conversion")
    config = load_config(config_file, overrides)
    model = build(config.model)
    state = read_official(source)
    if backbone:
        result = backbone_to_ours(state, model.backbone.net.state_dict())
    else:
        result = _translated(state, model.state_dict())
    if result.complete:
        destination.parent.mkdir(parents=True, exist_ok=True)
        meta = {"source": source.name} | ({} if backbone else input_facts(config))
        save_weights(destination, result.state, None if backbone else to_json(config.model), meta)
    return result


def _translated(official: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Translation:
    """A published state_dict in our names, by the table of the system that our model is of."""
    if official_stills.is_still(expected):
        return official_stills.to_ours(official, expected)
    if official_svanet.is_svanet(expected):
        return official_svanet.to_ours(official, expected)
    return to_ours(official, expected)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, or 2 with a message."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="ckpt.pth.tar, .pth or .safetensors of a published system")
    parser.add_argument("destination", type=Path, help="the .safetensors file to write")
    parser.add_argument("--config_file", type=Path, required=True, help="a config with the model that the file is for")
    parser.add_argument("--backbone", action="store_true", help="the file holds ImageNet weights of the backbone only")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the config")
    options = parser.parse_intermixed_args(arguments)
    try:
        result = convert(options.source, options.destination, options.config_file, options.backbone, options.overrides)
    except (ConfigError, OfficialWeightsError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in result.lines():
        print(line)
    counts = f"{len(result.state)} tensors, {sum(t.numel() for t in result.state.values()):,} numbers"
    if not result.complete:
        print(
            f"not converted: {len(result.missing)} missing, {len(result.unexpected)} unexpected, "
            f"{len(result.misshapen)} misshapen; is {options.config_file} the config of this file?",
            file=sys.stderr,
        )
        return 2
    print(f"{options.source} -> {options.destination}: {counts}, all accounted for")
    return 0


if __name__ == "__main__":
    sys.exit(main())
