"""Trains and evaluates:  python main.py --config_file configs/demo/phantom.py --trainer_mode train [key=value ...]

Ends with status 0 (also when it was asked to stop and has saved), 2 with one line that says what to mend, or
130 after a Ctrl-C outside of training, or a second one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

MODES = ("train", "train_attmpt", "train_resume", "eval")
INTERRUPTED = 130
"""Exit status after Ctrl-C, where nothing more was saved."""
RANK_0_FIRST = 3.0
"""Seconds that the other processes give rank 0 to tell an error."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train or evaluate a lesion segmentation model.")
    parser.add_argument("--config_file", required=True, help="a file of configs/")
    parser.add_argument("--trainer_mode", required=True, choices=MODES, help="train_attmpt means train")
    parser.add_argument("--eval_path", help="eval: a weights file, a checkpoint, or a folder of checkpoints")
    parser.add_argument("--out_dir", help="folder of the run, by default runs/<config>")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the config")
    return parser.parse_intermixed_args(arguments)


def run(options: argparse.Namespace) -> None:
    """What the command line asks for."""
    from lgrnet import distributed
    from lgrnet.checkpoint.disk import place_error
    from lgrnet.config import load_config
    from lgrnet.engine import run as engine

    config = load_config(options.config_file, options.overrides)
    settings = engine.settings_of(config)
    folder = Path(options.out_dir or settings.out_dir or engine.run_folder(options.config_file))
    try:
        with distributed.init(settings.device) as context:
            if options.trainer_mode == "eval":
                engine.evaluate(config, options.eval_path or folder, folder, context)
            else:
                engine.train(config, folder, context, resume=options.trainer_mode == "train_resume")
    except OSError as error:
        if (told := place_error(folder, error)) is not None:
            raise told from error
        raise


def main() -> int:
    """Runs the command line; mistakes that a user can mend end in one line instead of a traceback."""
    options = parse()
    try:
        from lgrnet.engine.run import USER_ERRORS

        try:
            run(options)
        except USER_ERRORS as error:
            complain(str(error))
            return 2
    except KeyboardInterrupt:
        complain("stopped by Ctrl-C; what was saved before is whole, and a training goes on with train_resume")
        return INTERRUPTED
    return 0


def complain(text: str) -> None:
    """The error of this process, once where all processes have it."""
    from lgrnet.distributed import started_rank

    rank = started_rank()
    if rank > 0:
        # An error of all processes has ended rank 0 by then, upon which torchrun ends this one. What is left are
        # errors that rank 0 does not have.
        time.sleep(RANK_0_FIRST)
    print(f"error: {text}" if rank == 0 else f"error in process {rank}: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
