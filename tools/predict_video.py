r"""Finds lesions in a video and writes masks and pictures.

    python tools/predict_video.py INPUT --out DIR [--weights phantom|FILE] [--size 352 352] [--precision bf16]

INPUT is a folder of frames, one image, or a video file; with --stills the pictures of a folder are no video: each is
predicted by itself, and they may differ in size. DIR then holds masks/<video>/<frame>.png (0 and 255),
overlays/<video>/<frame>.jpg and overlays/<video>_sheet.png. What an earlier run left there is removed only with
--overwrite. A damaged part of a video file costs its own frames only, a damaged picture of --stills itself, and both
are named at the end. This is research software, not a medical device.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lgrnet  # noqa: E402
from lgrnet.checkpoint.disk import CheckpointError  # noqa: E402
from lgrnet.config import ConfigError  # noqa: E402
from lgrnet.inference.predictor import Predictor  # noqa: E402
from lgrnet.inference.sources import ImageSource, VideoFileSource, open_source  # noqa: E402
from lgrnet.inference.writers import inside, save_masks, save_stills_sheet, save_video_overlays  # noqa: E402
from lgrnet.records import DataError, Prediction, count_and_name, file_error, read_frame  # noqa: E402
from lgrnet.records.drafts import DISK_FULL  # noqa: E402
from lgrnet.records.pictures import exif_orientation  # noqa: E402

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def predict_video(
    source: Path,
    out: Path,
    weights: str,
    size: Sequence[int] | None = None,
    device: str | None = None,
    chunk: int | None = None,
    precision: str = "fp32",
    overwrite: bool = False,
    stills: bool = False,
) -> list[str]:
    """Runs the whole walk and returns what to tell the user, line by line.

    size       (height, width) that frames are resized to; None: what the model was trained at
    device     where the model runs; None: a GPU where there is one
    chunk      frames that go through the model at once; None: what the model says
    precision  of weights and features, "fp32" or "bf16"
    overwrite  remove the masks and overlays of an earlier video of this name
    stills     every picture of a folder is a video of its own

    Raises DataError, CheckpointError, ConfigError or MemoryError.
    """
    frames = open_source(source)
    if stills and not isinstance(frames, ImageSource):
        raise DataError(f"--stills is for a folder of pictures, and {source} is a video file")
    folders = [inside(out / kind, frames.name) for kind in ("masks", "overlays")]
    _check_folders(folders, source, overwrite)
    model = lgrnet.load(weights).to(PRECISIONS[precision])
    size = tuple(size or getattr(model, "input_size", (352, 352)))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    resize = getattr(model, "input_resize", "bilinear")
    predictor = Predictor(model, size, device, chunk, resize)
    _check_writable(out)
    masks, pictures, words = (_predict_stills if stills else _predict_one)(predictor, frames, out, folders)
    return [
        f"{frames.name}: {words} (weights {weights}, {size[0]} x {size[1]}, on {device})",
        f"masks     {masks[0].parent}/ ({len(masks)} files)",
        f"overlays  {pictures[0].parent}/ ({len(pictures) - 1} files)",
        f"sheet     {pictures[-1]}",
        *(f"damaged   {line}" for line in frames.damage),
        *(f"note      {line}" for line in frames.notes),
        *_turned(frames),
    ]


def _turned(frames: ImageSource | VideoFileSource) -> list[str]:
    """A line about pictures that viewers turn, which masks and overlays do not."""
    names = []
    for path in frames.paths if isinstance(frames, ImageSource) else ():
        with suppress(DataError):
            names += [path.name] if exif_orientation(path) != 1 else []
    return (
        [f"turned    {count_and_name(names, 'picture')} by viewers (EXIF); masks fit them as stored"] if names else []
    )


def _predict_one(
    predictor: Predictor, frames: ImageSource | VideoFileSource, out: Path, folders: Sequence[Path]
) -> tuple[list[Path], list[Path], str]:
    """Masks, overlays with their sheet last, and words, of a video."""
    try:
        prediction = predictor.predict_stream(frames, frames.name)
    except DataError as error:
        raise DataError("; ".join([str(error), *frames.damage[:3]])) from error
    for folder in folders:
        _remove_pictures(folder)
    masks = save_masks(prediction, out / "masks")
    pictures = save_video_overlays(frames, prediction, out / "overlays")
    height, width = prediction.mask.shape[-2:]
    scores = ", ".join(f"{score:.3f}" for score in prediction.scores)
    words = f"{len(masks)} frames of {height} x {width}, a lesion in {_found(prediction)}, score {scores}"
    return masks, pictures, words


def _predict_stills(
    predictor: Predictor, frames: ImageSource, out: Path, folders: Sequence[Path]
) -> tuple[list[Path], list[Path], str]:
    """The same of pictures, each by itself."""
    masks, pictures, found = [], [], 0
    for path in frames.paths:
        try:
            picture = path.stem, read_frame(path)
        except DataError as error:
            frames.damage.append(str(error))
            continue
        prediction = predictor.predict_stream([picture], frames.name)
        if not masks:
            for folder in folders:
                _remove_pictures(folder)
        masks += save_masks(prediction, out / "masks")
        pictures += save_video_overlays([picture], prediction, out / "overlays", sheet_frames=0)
        found += _found(prediction)
    if not masks:
        raise DataError("; ".join([f"none of the pictures in {frames.name} can be read", *frames.damage[:3]]))
    return masks, [*pictures, save_stills_sheet(pictures)], f"{len(masks)} pictures, a lesion in {found}"


def _found(prediction: Prediction) -> int:
    """In how many frames there is something."""
    return int(prediction.mask.any(axis=(0, 2, 3)).sum())


def _check_folders(folders: Sequence[Path], source: Path, overwrite: bool) -> None:
    """Raises DataError where the folders hold the frames themselves, or, unless asked for, anything at all."""
    for folder in folders:
        if source.is_dir() and folder == source.resolve():
            raise DataError(f"the frames in {source} would be overwritten; give another --out")
        if not overwrite and folder.is_dir() and any(folder.iterdir()):
            raise DataError(
                f"{folder} holds files of an earlier run; give another --out, or --overwrite to remove them"
            )


def _check_writable(out: Path) -> None:
    """Raises OSError where nothing can be written to `out` or, where that is not there yet, beside it."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=there):
        pass


def _remove_pictures(folder: Path) -> None:
    """Those that this command writes; other files stay."""
    for path in folder.glob("*") if folder.is_dir() else ():
        if path.suffix in (".png", ".jpg") and path.is_file():
            path.unlink()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, 2 with a message, or 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="a folder of frames, an image or a video file")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--weights", default="phantom", help="a weights file, or phantom: the small model in the package"
    )
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="default: what the model was trained at")
    parser.add_argument("--device", help="cpu or cuda; default: a GPU where there is one")
    parser.add_argument("--chunk", type=int, help="frames that go through the model at once; fewer need less memory")
    parser.add_argument(
        "--precision", default="fp32", choices=PRECISIONS, help="bf16: half the memory, fast where a processor has it"
    )
    parser.add_argument("--stills", action="store_true", help="the pictures of the folder are no video")
    parser.add_argument("--overwrite", action="store_true", help="remove what an earlier run wrote for this name")
    options = parser.parse_args(arguments)
    settings = (options.weights, options.size, options.device, options.chunk, options.precision)
    try:
        lines = predict_video(options.input, options.out, *settings, options.overwrite, options.stills)
    except OSError as error:
        advice = f"make room on the disk of {options.out}" if error.errno in DISK_FULL else "check INPUT and --out"
        print(f"error: cannot use {file_error(error)}; {advice}", file=sys.stderr)
        return 2
    except (DataError, CheckpointError, ConfigError, MemoryError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"error: stopped by Ctrl-C; every file in {options.out} is whole", file=sys.stderr)
        return 130
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
