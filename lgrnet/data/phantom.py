"""The embedded data set: endoscopy-like clips with one lesion, rendered by ray casting, so that nothing is downloaded.

A camera with its own light moves through a folded tube (phantom_scene.py). Each pixel's ray is followed to the wall;
the wall is shaded by distance, slope, fine relief and wetness; then come instrument, motion blur, bubbles in front of
the lens, the edge of the picture and noise. A clip of a given length and size depends on (seed, clip index) alone, to
the bit; another processor or numpy release may round a few pixels by one grey level.

    python -m lgrnet.data.phantom --root data/phantom
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lgrnet.data.phantom_render import Optics, render_frame
from lgrnet.data.phantom_scene import build_scene, generator
from lgrnet.records import write_frame, write_mask
from lgrnet.records.drafts import drafted

VERSION = 1  # of the pictures: another one is another data set


def render_clip(
    seed: int, index: int, num_frames: int = 24, size: int | tuple[int, int] = 256
) -> tuple[np.ndarray, np.ndarray]:
    """One clip and the masks of its visible lesion.

    seed, index  name the clip; both at least 0
    size         of the frames in pixels, at least 32: one number, or (height, width)

    Returns frames uint8 [T, H, W, 3] in RGB and masks uint8 [T, H, W] of 0 and 255. Raises ValueError for numbers
    out of range.
    """
    height, width = (size, size) if isinstance(size, int) else size
    _check(seed, index, num_frames, min(height, width))
    scene = build_scene(seed, index, num_frames, max(height, width))
    optics = Optics(generator(seed, index, 3), height, width, num_frames)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    masks = np.empty((num_frames, height, width), np.uint8)
    for t in range(num_frames):
        frames[t], masks[t] = render_frame(scene, optics, t, generator(seed, index, 100 + t))
    return frames, masks


def _check(seed: int, index: int, num_frames: int, size: int) -> None:
    """Raise ValueError for the first number that is too small, naming it."""
    for name, given, least in (
        ("seed", seed, 0),
        ("clip index", index, 0),
        ("number of frames", num_frames, 1),
        ("size in pixels", size, 32),
    ):
        if given < least:
            raise ValueError(f"phantom clips got the {name} {given}, expected at least {least}")


def write(
    root: str | Path,
    num_clips: int = 24,
    num_frames: int = 24,
    size: int = 256,
    seed: int = 2024,
    num_test: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write the data set as `<root>/<train|test>/Frame/<video>/<frame>.jpg` and `GT/<video>/<frame>.png` (0 and 255).

    num_test  how many clips, the last ones, are the test split; None: a quarter, at least one
    progress  called with a line of text after each clip

    Does nothing when `root` already holds the complete data set of these parameters, and finishes one that was
    interrupted. Returns root. Raises ValueError for numbers out of range, and FileExistsError when `root` holds
    anything else; nothing is ever deleted.
    """
    num_test = max(1, num_clips // 4) if num_test is None else num_test
    if not 0 < num_test < num_clips:
        raise ValueError(f"got {num_clips} clips of which {num_test} for testing, expected at least one for each split")
    _check(seed, 0, num_frames, size)
    wanted = {
        "version": VERSION,
        "clips": num_clips,
        "frames": num_frames,
        "size": size,
        "seed": seed,
        "test": num_test,
    }
    root = Path(root)
    note = root / "phantom.json"
    done = _clips_done(root, note, wanted)
    for index in range(done, num_clips):
        split = "train" if index < num_clips - num_test else "test"
        frames, masks = render_clip(seed, index, num_frames, size)
        _write_clip(root / split, f"clip{index:03d}", frames, masks)
        _write_note(note, {**wanted, "done": index + 1})
        if progress:
            progress(f"{index + 1}/{num_clips}  {root / split / 'Frame' / f'clip{index:03d}'}")
    return root


def _clips_done(root: Path, note: Path, wanted: dict[str, int]) -> int:
    """How many clips of the wanted data set are whole in `root`; writes the note of a new one."""
    if not note.is_file():
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise FileExistsError(f"{root} is not empty and holds no phantom data set; name a new folder")
        root.mkdir(parents=True, exist_ok=True)
        _write_note(note, {**wanted, "done": 0})
        return 0
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        done = int(found.pop("done"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileExistsError(f"{note} is not readable ({error}); name a new folder or delete {root}") from error
    if found != wanted:
        differing = [
            f"{key} {found.get(key)} instead of {wanted[key]}" for key in wanted if found.get(key) != wanted[key]
        ]
        raise FileExistsError(
            f"{root} holds another phantom data set ({', '.join(differing)}); name a new folder or delete it"
        )
    for index in range(done):
        if not _is_whole(root, index, wanted):
            return index
    return done


def _is_whole(root: Path, index: int, wanted: dict[str, int]) -> bool:
    split = "train" if index < wanted["clips"] - wanted["test"] else "test"
    return all(
        (root / split / kind / f"clip{index:03d}" / f"{t:03d}{suffix}").is_file()
        for kind, suffix in (("Frame", ".jpg"), ("GT", ".png"))
        for t in range(wanted["frames"])
    )


def _write_clip(split: Path, name: str, frames: np.ndarray, masks: np.ndarray) -> None:
    for t, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
        write_frame(split / "Frame" / name / f"{t:03d}.jpg", frame)
        write_mask(split / "GT" / name / f"{t:03d}.png", mask > 0)


def _write_note(note: Path, content: dict[str, int]) -> None:
    """Replace the note in one step, so that an interruption leaves the old or the new one."""
    with drafted(note) as draft:
        draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; `arguments` default to those of the process."""
    parser = argparse.ArgumentParser(description="Render the embedded phantom data set.")
    parser.add_argument("--root", required=True, help="folder to write to; new, or one of an earlier run")
    parser.add_argument("--clips", type=int, default=24, help="clips; a quarter of them is the test split")
    parser.add_argument("--frames", type=int, default=24, help="frames of each clip")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--seed", type=int, default=2024)
    given = parser.parse_args(arguments)
    try:
        write(given.root, given.clips, given.frames, given.size, given.seed, progress=print)
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error}; every file that is there is whole, and the same command goes on")
    print(f"phantom data set of {given.clips} clips in {given.root}")


if __name__ == "__main__":
    main()
