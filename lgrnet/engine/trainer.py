"""The training loop: one step, its state, and what happens when a step goes wrong."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lgrnet import distributed
from lgrnet.draws import KeyedDraws, keyed_seed, python_generator
from lgrnet.engine.clock import TrainingClock
from lgrnet.engine.optim import clip_gradients
from lgrnet.engine.settings import TrainSettings
from lgrnet.structures import ClipBatch, SegOutput, Targets

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """What one step gave: the same on all ranks, free of time, and on a CPU equal bit by bit after a resume (a GPU adds
    up gradients of sampled and resized maps in an order of its own).

    step       steps done, this one included
    losses     unweighted terms;  total  their weighted sum;  both are means over ranks
    lr         the largest learning rate of the step
    grad_norm  global L2 norm before clipping
    size       square training size, None: frames were left as they came
    skipped    loss or gradient was not finite: weights are as before
    """

    step: int
    losses: dict[str, float]
    total: float
    lr: float
    grad_norm: float
    size: int | None
    skipped: bool


class Loader(Protocol):
    """Where batches come from: lgrnet.data.loader.ClipLoader."""

    dataset: Sized

    def batches(self, start_step: int) -> Iterator[ClipBatch]:
        """This rank's batches from a step on, without end."""


class Hook:
    """Something to do around steps; every method may be left out."""

    def before(self, trainer: Trainer) -> None:
        """Before the first step of this process."""

    def after_step(self, trainer: Trainer, record: StepRecord) -> None:
        """After every step."""

    def after(self, trainer: Trainer) -> None:
        """After the last step, also when training was asked to stop; not after an error."""


class Trainer:
    """Trains a model; everything random is keyed by seed and step, so its state is small and resume is exact.

    model      model(frames [B, T, 3, H, W] in 0..1) -> SegOutput, on `device`
    criterion  criterion(output, targets, draws) -> dict of unweighted terms; its `weights` names the same terms.
               With settings.accumulate > 1 it also gets whole=, the targets of all clips of this rank's step
    optimizer  over the model's parameters
    schedule   stepped once per step
    loader     gives this rank's batches
    stop       asked after every step: True ends training on all ranks alike
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[..., dict[str, Tensor]],
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        loader: Loader,
        settings: TrainSettings,
        device: torch.device | str = "cpu",
        stop: Callable[[], bool] = lambda: False,
    ):
        self.model, self.criterion, self.optimizer, self.schedule = model, criterion, optimizer, schedule
        self.loader, self.settings, self.device = loader, settings, torch.device(device)
        self.step, self.skipped, self.skipped_in_a_row, self.stopping = 0, 0, 0, False
        self.stop = stop
        self.clock = TrainingClock()
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self._averages = _copy(model.state_dict()) if settings.ema else None
        self._freezable = _backbone_parameters(model, settings.freeze_steps)
        self._buffers = [torch.empty_like(buffer) for buffer in model.buffers()]
        self._frozen, self._wrapped = False, None
        self._freeze()

    def run(self, hooks: Sequence[Hook] = ()) -> None:
        """Trains until `settings.steps` steps are done, or `stop` says so.

        Raises TrainingError after `settings.max_skipped` steps in a row without a finite loss and gradient, and where
        the device has too little memory for a step.
        """
        for hook in hooks:
            hook.before(self)
        batches = self.loader.batches(self.step)
        while self.step < self.settings.steps and not self.stopping:
            try:
                record = self.train_step(next(batches))
            except RuntimeError as error:
                if not distributed.is_out_of_memory(error):
                    raise
                raise TrainingError(_out_of_memory(self.step + 1, self.settings, error)) from error
            for hook in hooks:
                hook.after_step(self, record)
            self._check_progress(record)
        for hook in hooks:
            hook.after(self)

    def train_step(self, batch: ClipBatch) -> StepRecord:
        """One optimizer step on this rank's clips of step `self.step`."""
        self.model.train()
        self._freeze()
        size = self._draw_size()
        _copy_all(self._buffers, self.model.buffers())
        lr = max(group["lr"] for group in self.optimizer.param_groups)
        terms, total = self._forward_backward(batch.to(self.device, non_blocking=True), size)
        norm = self._clip()
        losses, total, norm, finite = self._agree(terms, total, norm)
        if finite:
            self._scaler.step(self.optimizer)
            self._average()
        else:
            # Statistics of normalisation layers have already seen this batch.
            _copy_all(self.model.buffers(), self._buffers)
            # The schedule goes on over a skipped step; torch takes that for a mistake when it is the first one.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.step += 1
        self.skipped += not finite
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        return StepRecord(self.step, losses, total, lr, norm, size, not finite)

    def weights(self) -> dict[str, Tensor]:
        """The state dict to evaluate and to keep: the moving average where there is one, else the model's."""
        return self.model.state_dict() if self._averages is None else self._averages

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """The model in eval mode with `weights()`, the same on every rank; afterwards it is as it was."""
        trained = None if self._averages is None else _copy(self.model.state_dict())
        if trained is not None:
            self.model.load_state_dict(self._averages)
        # Each rank has statistics of its own clips, and averages of them.
        for buffer in self.model.buffers():
            distributed.broadcast(buffer)
        self.model.eval()
        try:
            yield self.model
        finally:
            if trained is not None:
                self.model.load_state_dict(trained)
            self.model.train()

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs besides `weights()`."""
        return {
            "step": self.step,
            "seed": self.settings.seed,
            "batch_size": self.settings.batch_size,
            "samples": len(self.loader.dataset),
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
            "trained": None if self._averages is None else self.model.state_dict(),
        }

    def load_state(self, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Goes on from `weights()` and `state()` of an earlier run.

        Raises TrainingError when seed, batch size or number of samples differ: the clips to come would be others.
        """
        samples = len(self.loader.dataset)
        if state.get("samples", samples) != samples:
            raise TrainingError(
                f"the run was trained on {state['samples']} samples, data.train now has {samples}; resume with the "
                "same data, or train anew with train.init_weights"
            )
        for name in ("seed", "batch_size"):
            if state[name] != getattr(self.settings, name):
                raise TrainingError(
                    f"the checkpoint was trained with train.{name}={state[name]}, the config says "
                    f"{getattr(self.settings, name)}; resume with the same, or train anew with train.init_weights"
                )
        if (state["trained"] is None) != (self._averages is None):
            raise TrainingError("the checkpoint and the config differ in train.ema; resume with the same setting")
        self.model.load_state_dict(dict(weights if state["trained"] is None else state["trained"]))
        if self._averages is not None:
            self._averages = {name: value.to(self.device).clone() for name, value in weights.items()}
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self._scaler.load_state_dict(state["scaler"])
        self.step, self.skipped = state["step"], state["skipped"]
        self.skipped_in_a_row = state["skipped_in_a_row"]

    def _freeze(self) -> None:
        """Frees the backbone once `freeze_steps` are done, and keeps it as it is before."""
        frozen = self.step < self.settings.freeze_steps
        if self._wrapped is not None and frozen == self._frozen:
            return
        for parameter in self._freezable:
            parameter.requires_grad_(not frozen)
        # DDP learns only when it is made which gradients there are; the old one must be gone by then.
        self._frozen, self._wrapped = frozen, None
        self._wrapped = self._wrap(self.model)

    def _wrap(self, model: nn.Module) -> nn.Module:
        module = torch.compile(model) if self.settings.compile else model
        if distributed.world_size() == 1:
            return module
        places = [self.device.index] if self.device.type == "cuda" else None
        # PyTorch 2.15 renames the option; nothing is copied during training, `evaluating` does it.
        known = inspect.signature(DistributedDataParallel).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        unused = self.settings.find_unused_parameters
        # Gradients of depthwise weights [C, 1, 3, 3] have other strides for the same memory: nothing is slower.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        return DistributedDataParallel(module, device_ids=places, find_unused_parameters=unused, **{sync: False})

    def _draw_size(self) -> int | None:
        if not self.settings.sizes:
            return None
        # Here and not above: a step of one size needs no OpenCV.
        from lgrnet.data.transforms import draw_size

        return draw_size(self.settings.sizes, python_generator(self.settings.seed, self.step, "size"))

    def _forward_backward(self, batch: ClipBatch, size: int | None) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of this rank's mean loss, in `accumulate` parts; (terms, total) without graph."""
        parts = _split(batch, self.settings.accumulate)
        whole = {} if len(parts) == 1 else {"whole": batch.targets}
        sums: dict[str, Tensor] = {}
        total = torch.zeros((), device=self.device)
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with self._without_reduction(not last):
                terms, loss = self._loss(part, size, whole)
                self._scaler.scale(loss / len(parts)).backward()
            total += loss.detach() / len(parts)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach() / len(parts)
        return sums, total

    def _loss(
        self, batch: ClipBatch, size: int | None, whole: Mapping[str, Sequence[Targets]]
    ) -> tuple[dict[str, Tensor], Tensor]:
        seed = self.settings.seed
        frames = resized(batch.frames.double() if self.settings.precision == "fp64" else batch.frames, size)
        # Drop path draws from the global generator; keyed like this it does not depend on what ran before.
        torch.manual_seed(keyed_seed(seed, batch.positions[0], "dropout"))
        dtype = _AUTOCAST.get(self.settings.precision)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            output = self._wrapped(frames)
        output = output if dtype is None else in_fp32(output)
        terms = self.criterion(output, batch.targets, KeyedDraws(seed, batch.positions), **whole)
        weights = self.criterion.weights
        return terms, sum(weights[name] * term for name, term in terms.items())

    def _without_reduction(self, wanted: bool) -> AbstractContextManager:
        return self._wrapped.no_sync() if wanted and distributed.world_size() > 1 else nullcontext()

    def _clip(self) -> Tensor:
        self._scaler.unscale_(self.optimizer)
        return clip_gradients(self.model.parameters(), self.settings.clip_norm or None)

    def _agree(
        self, terms: Mapping[str, Tensor], total: Tensor, norm: Tensor
    ) -> tuple[dict[str, float], float, float, bool]:
        """Means over ranks, whether every rank was finite, and whether any was asked to stop.

        One small reduction, and the only copy from the device that the trainer makes in a step.
        """
        names = sorted(terms)
        bad = ~(torch.isfinite(total) & torch.isfinite(norm))
        stop = torch.full_like(bad, self.stop())
        values = torch.stack([*(terms[name].float() for name in names), total, bad.float(), stop.float()])
        # In float64, so that the norm of a step in float64 stays as it is.
        values = torch.cat((distributed.reduce_mean(values).double(), norm.double()[None]))
        *means, total_mean, bad_mean, stop_mean, norm_here = values.tolist()
        self.stopping = stop_mean > 0
        return dict(zip(names, means, strict=True)), total_mean, norm_here, bad_mean == 0

    @torch.no_grad()
    def _average(self) -> None:
        if self._averages is None:
            return
        # Young averages forget their random start faster.
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self._averages[name].lerp_(value, 1 - decay)
            else:
                self._averages[name].copy_(value)

    def _check_progress(self, record: StepRecord) -> None:
        if self.skipped_in_a_row >= self.settings.max_skipped:
            raise TrainingError(
                f"loss or gradient was not finite for {self.skipped_in_a_row} steps in a row, up to step {record.step} "
                f"(loss {record.total}, gradient norm {record.grad_norm}); the weights are those of step "
                f"{record.step - self.skipped_in_a_row}. Lower optimizer.lr, or use train.precision=fp32 or bf16"
            )


def _backbone_parameters(model: nn.Module, freeze_steps: int) -> list[nn.Parameter]:
    """What is trained only after `freeze_steps`; nothing when there are none."""
    if freeze_steps == 0:
        return []
    if not hasattr(model, "backbone"):
        raise TrainingError(f"train.freeze_steps={freeze_steps}: {type(model).__name__} has no backbone; use 0")
    return [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]


def _out_of_memory(step: int, settings: TrainSettings, error: Exception) -> str:
    return (
        f"there is too little memory for step {step} with train.batch_size={settings.batch_size} and "
        f"train.accumulate={settings.accumulate} ({str(error).splitlines()[0]}). Free the GPU or take more of them, "
        "and train_resume goes on from the last checkpoint; or train anew with larger train.accumulate, smaller "
        "train.sizes or train.precision=bf16"
    )


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


def _copy_all(to: Iterable[Tensor], source: Iterable[Tensor]) -> None:
    """Copies of tensors into others, on a GPU in a few kernels for all of them."""
    to, source = list(to), list(source)
    if to:
        torch._foreach_copy_(to, source)


def resized(frames: Tensor, size: int | None) -> Tensor:
    """Frames [B, T, 3, H, W] at the size that a step trains at: [B, T, 3, size, size].

    Bilinear without antialias, whatever the aspect ratio, as published. size None, or that of the frames: as they are.
    """
    if size is None or tuple(frames.shape[-2:]) == (size, size):
        return frames
    flat = frames.flatten(0, 1)  # [B*T, 3, H, W]
    flat = F.interpolate(flat, size=(size, size), mode="bilinear", align_corners=False)
    return flat.unflatten(0, frames.shape[:2])


def _split(batch: ClipBatch, parts: int) -> list[ClipBatch]:
    count = len(batch.targets)
    if count % parts:
        raise TrainingError(
            f"{count} clips per process do not split into train.accumulate={parts} equal parts; "
            "change train.batch_size or train.accumulate"
        )
    share = count // parts
    slices = [slice(start, start + share) for start in range(0, count, share)]
    return [ClipBatch(batch.frames[s], batch.targets[s], batch.infos[s]) for s in slices]


def in_fp32(output: SegOutput) -> SegOutput:
    """The output, and those of earlier stages, in float32: losses are never in half precision."""
    classes = None if output.class_logits is None else output.class_logits.float()
    aux = tuple(in_fp32(layer) for layer in output.aux)
    return dataclasses.replace(output, mask_logits=output.mask_logits.float(), class_logits=classes, aux=aux)
