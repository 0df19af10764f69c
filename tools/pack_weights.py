"""Makes a small weights file of a checkpoint, to be given away: weights alone, in half precision.

    python tools/pack_weights.py runs/demo/phantom/checkpoints/step_00002000 lgrnet_phantom.safetensors

The description of the model stays in the file, so that `lgrnet.load(FILE)` needs no config. Half precision costs
about three decimal digits of each weight; `--full` keeps all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgrnet.checkpoint import resolve  # noqa: E402
from lgrnet.checkpoint.disk import CheckpointError, check_apart, write_atomic  # noqa: E402
from lgrnet.checkpoint.weights import FORMAT, WEIGHTS_FILE, pack, read_weights, weights_file  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; mistakes that a user can mend end in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a weights file or a checkpoint's folder")
    parser.add_argument("target", type=Path, help="the file to write, .safetensors")
    parser.add_argument("--full", action="store_true", help="keep single precision")
    options = parser.parse_args(arguments)
    try:
        if options.target.suffix != ".safetensors":
            raise CheckpointError(f"{options.target} is no name for weights; give one that ends in .safetensors")
        source = weights_file(resolve(options.source))
        check_apart(options.target, source)
        state, metadata = read_weights(source)
        if metadata.get("format") != FORMAT:
            raise CheckpointError(
                f"{source} holds no weights as lgrnet writes them; give a checkpoint's folder or its {WEIGHTS_FILE}, "
                "and another package's file to tools/convert_official.py first"
            )
        if not options.full:
            halves = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
            if lost := [name for name, t in halves.items() if (t.isfinite() != state[name].isfinite()).any()]:
                raise CheckpointError(f"{', '.join(lost[:3])} hold numbers too large for half precision; give --full")
            state = halves
        write_atomic(options.target, pack(state, metadata))
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.target}: {len(state)} tensors, {options.target.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
