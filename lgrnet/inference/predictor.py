"""From frames on disk to a prediction at their size: the whole video is one clip, as published."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgrnet.data.transforms import as_size, check_eval_rule, resize_for_eval
from lgrnet.distributed import is_out_of_memory
from lgrnet.models.segmenter import in_unit_range
from lgrnet.records import DataError, Prediction, VideoRecord, read_frame
from lgrnet.structures import ClipInfo, SegOutput


class Predictor:
    """Runs a model on videos.

    model   frames [1, T, 3, H, W] in 0..1 -> SegOutput, with `stride` and `predict(output, info)`; it is moved to
            `device` and put in eval mode. Where it has `infer`, as all models of lgrnet do, that is called with uint8
            frames, and goes through a long video a few frames at a time
    size    (height, width) that frames are resized to, aspect ratio ignored (published: 352, 352)
    device  where the model runs
    chunk   frames that pass the model together; None leaves the model's own `frame_chunk`
    resize  how: "bilinear", "bicubic" or "short_side", see `lgrnet.data.transforms.resize_for_eval`

    Raises ValueError when `chunk` is given for a model that does not work in chunks, when the device is not there, for
    an unknown `resize`, and for a `size` that is none or has more pixels than a frame on disk may have. Sizes that are
    no multiples of the model's stride are padded.
    """

    def __init__(
        self,
        model: nn.Module,
        size: int | Sequence[int] = (352, 352),
        device: torch.device | str = "cpu",
        chunk: int | None = None,
        resize: str = "bilinear",
    ):
        self.size, self.device, self.resize = as_size(size), _device(device), check_eval_rule(resize)
        self.model = model.to(self.device)
        if chunk is not None:
            if chunk < 1 or not hasattr(model, "frame_chunk"):
                kind = type(model).__name__
                raise ValueError(f"chunk is {chunk} for a {kind}; expected at least 1 and a model with frame_chunk")
            model.frame_chunk = chunk

    def predict(self, record: VideoRecord, candidates: bool = False) -> Prediction:
        """The prediction for a video on disk; frames are read one at a time.

        Raises ValueError for anything but a VideoRecord, DataError for a frame that cannot be read or has another size
        than the first.
        """
        if not isinstance(record, VideoRecord):
            raise ValueError(
                f"predict got a {type(record).__name__}, expected a VideoRecord of lgrnet.records.list_videos; for a "
                "folder, an image or a video file: predict_stream(lgrnet.inference.sources.open_source(path), name)"
            )
        frames = ((path.stem, read_frame(path)) for path in record.frames)
        return self.predict_stream(frames, record.name, candidates)

    def predict_frames(
        self,
        frames: np.ndarray | Sequence[np.ndarray],
        names: Sequence[str] | None = None,
        video: str = "video",
        candidates: bool = False,
    ) -> Prediction:
        """The prediction for frames in memory: uint8 [T, H, W, 3] or a sequence of T [H, W, 3]; or a still image
        [H, W, 3] as a video of one frame.

        names  one per frame; None: 000000, 000001, ...
        """
        if isinstance(frames, np.ndarray):
            frames = frames[None] if frames.ndim == 3 else frames
            if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
                raise ValueError(f"frames are {frames.dtype} {frames.shape}, expected uint8 [T, H, W, 3] or [H, W, 3]")
        names = [f"{index:06d}" for index in range(len(frames))] if names is None else list(names)
        if len(names) != len(frames):
            raise ValueError(f"video {video!r} has {len(frames)} frames but {len(names)} names; give one each")
        return self.predict_stream(zip(names, frames, strict=True), video, candidates)

    def predict_stream(
        self, frames: Iterable[tuple[str, np.ndarray]], video: str, candidates: bool = False
    ) -> Prediction:
        """The prediction for frames that come one by one as (name, uint8 [H, W, 3]).

        Only the resized frames are kept. Raises DataError when there is no frame, one has another size than the first,
        or what the model says is not finite, MemoryError with advice when the video does not fit.
        """
        names: list[str] = []
        small, disk_size, size = [], None, self.size
        try:
            for name, frame in _of_one_size(frames, video):
                names.append(name)
                disk_size = frame.shape[:2]
                small.append(resize_for_eval(frame, self.size, self.resize))
            if disk_size is None:
                raise DataError(f"video {video!r} has no frames; expected at least one")
            size = small[0].shape[:2]
            clip = np.stack(small)
            small.clear()
            return self._run(clip, ClipInfo(video, tuple(names), disk_size, clip.shape[:3]), candidates)
        except (MemoryError, RuntimeError) as error:
            if disk_size is None or not is_out_of_memory(error):
                raise
            raise MemoryError(self._advice(video, (len(names), *size), disk_size)) from error

    @torch.inference_mode()
    def _run(self, frames: np.ndarray, info: ClipInfo, candidates: bool) -> Prediction:
        """frames: uint8 [T, H, W, 3], already resized"""
        self.model.eval()
        video = torch.from_numpy(frames).to(self.device).permute(0, 3, 1, 2)  # [T, 3, H, W]
        video = pad_to_stride(video, self.model.stride)[None]
        infer = getattr(self.model, "infer", None)
        output = self.model(in_unit_range(video)) if infer is None else infer(video)
        if isinstance(output, SegOutput):  # what a model of somebody else gives is for its own predict
            _check_finite(output, info.video)
        options = {"candidates": True} if candidates else {}
        return self.model.predict(output, info, **options)

    def _advice(self, video: str, size: tuple[int, int, int], disk_size: tuple[int, int]) -> str:
        frames, height, width = size
        return (
            f"video {video!r} does not fit in memory: {frames} frames at {height} x {width}, {disk_size[0]} x "
            f"{disk_size[1]} on disk, on {self.device}; use a smaller size, a smaller chunk, or split the video"
        )


def pad_to_stride(frames: Tensor, stride: int) -> Tensor:
    """Zeros at the bottom and right of [..., H, W], so that both are multiples of `stride`."""
    missing_rows, missing_columns = (-side % stride for side in frames.shape[-2:])
    if missing_rows == missing_columns == 0:
        return frames
    return F.pad(frames, (0, missing_columns, 0, missing_rows))


def _of_one_size(frames: Iterable[tuple[str, np.ndarray]], video: str) -> Iterator[tuple[str, np.ndarray]]:
    first = None
    for name, frame in frames:
        if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8:
            found = f"{getattr(frame, 'dtype', type(frame).__name__)} {getattr(frame, 'shape', '')}".strip()
            raise ValueError(f"frame {name!r} is {found}, expected an array uint8 [H, W, 3]")
        first = first or (name, frame.shape[:2])
        if frame.shape[:2] != first[1]:
            raise DataError(
                f"video {video!r}: frame {name!r} is {frame.shape[0]} x {frame.shape[1]} but frame {first[0]!r} is "
                f"{first[1][0]} x {first[1][1]} (height x width); the frames of a video have one size. "
                "Pictures that are no video are predicted each by itself (tools/predict_video.py: --stills)"
            )
        yield name, frame


def _check_finite(output: SegOutput, video: str) -> None:
    """Raises DataError for logits of NaN or infinity: they would become an ordinary prediction, such as none."""
    logits = [output.mask_logits] + ([] if output.class_logits is None else [output.class_logits])
    extremes = torch.stack([end.float() for part in logits for end in part.aminmax()])
    if not torch.isfinite(extremes).all():
        raise DataError(f"video {video!r}: the model's logits are not finite; look at its weights, or at its precision")


def _device(name: torch.device | str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {str(name)!r}; expected cpu or cuda") from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if device.type not in there:
        raise ValueError(f"device is {str(name)!r}; expected cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {str(name)!r}, but PyTorch sees no GPU here; use device cpu")
    if (device.index or 0) >= there[device.type] and device.type != "cpu":
        raise ValueError(f"device is {str(name)!r}, but PyTorch sees {there[device.type]} of that kind here")
    return device
