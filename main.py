"""Trains and evaluates:  python main.py --config_file configs/demo/phantom.py --trainer_mode train [key=value ...]

Ends with status 0 (also when it was asked to stop and has saved), 2 with one line that says what to mend, or
130 after a Ctrl-C outside of training, or a second one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

MODES = ("train", "train_attmpt", "train_resume", "eval")
INTERRUPTED = 130
"""Exit status after Ctrl-C, where nothing more was saved."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train or evaluate a lesion segmentation model.")
    parser.add_argument("--config_file", required=True, help="a file of configs/")
    parser.add_argument("--trainer_mode", required=True, choices=MODES, help="train_attmpt means train")
    parser.add_argument(
        "--eval_path", type=_named, help="eval: a weights file, a checkpoint, or a folder of checkpoints"
    )
    parser.add_argument("--out_dir", type=_named, help="folder of the run, by default runs/<config>")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the config")
    return parser.parse_intermixed_args(arguments)


def _named(text: str) -> str:
    """A path; an empty one, of a shell's variable that is not set, would mean another place."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; give a path")
    return text


def run(options: argparse.Namespace) -> int:
    """Does what the command line asks for; the exit status."""
    from lgrnet.config import load_config
    from lgrnet.engine import run as engine
    from lgrnet.engine.command import status_in_group

    config = load_config(options.config_file, options.overrides)
    settings = engine.settings_of(config)
    folder = Path(options.out_dir or settings.out_dir or engine.run_folder(options.config_file))
    if options.trainer_mode == "eval":
        work = partial(engine.evaluate, config, options.eval_path or folder, folder)
    else:
        work = partial(engine.train, config, folder, resume=options.trainer_mode == "train_resume")
    return status_in_group(work, settings.device, folder)


def main() -> int:
    """Runs the command line; mistakes that a user can mend end in one line instead of a traceback."""
    options = parse()
    try:
        from lgrnet.engine.command import status_of

        return status_of(partial(run, options), Path(options.out_dir or "runs"))
    except KeyboardInterrupt:
        from lgrnet.engine.command import complain

        complain("stopped by Ctrl-C; what was saved before is whole, and a training goes on with train_resume")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
