"""The `train` section of a config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PRECISIONS = ("fp32", "bf16", "fp16", "fp64")
_LARGEST_SEED = 2**32 - 1
"""What numpy's generator takes."""


@dataclass
class TrainSettings:
    """How to train; defaults are the published ones where something was published (specified per config otherwise).

    steps             optimizer steps in all
    batch_size        clips per optimizer step, over all processes
    save_every        a checkpoint every so many steps; one is also written before each evaluation and at the end
    eval_every        evaluation every so many steps, 0: none on the way
    eval_first        evaluate before the first step too
    eval_last         evaluate after the last step
    keep              newest checkpoints that stay, besides the best
    metric            the best checkpoint has the highest value of this, a mean over the evaluation sets
    seed              of the initial weights and of every draw
    sizes             square training sizes of which each step draws one, for all its clips (published: each process
                      draws its own, so that its number changes what is drawn); empty: frames stay as they come
    clip_norm         limit of the global L2 norm of the gradient, 0: none
    precision         fp32, or bf16 | fp16 autocast of the model (the loss stays in fp32); fp64 to check that two ways
                      of training are one, free of rounding
    freeze_steps      first steps that leave the weights of the model's backbone as they are (SvANet: 10 epochs); its
                      batch norms follow the data all the same, as published. 0: none
    accumulate        parts into which a process splits its clips of a step, to save memory; the loss is that of the
                      whole step, but drop path draws for each part and batch norm sees only a part
    ema               decay of a moving average of the weights, which is then evaluated and kept; 0: none
    compile           torch.compile the model
    workers           processes that load clips, per training process
    device            "cpu" or "cuda"; None: a GPU where there is one
    tf32              TF32 in matrix products on GPUs, as published (Q29)
    max_skipped       stop after so many steps in a row without a finite loss and gradient
    log_every         plain lines on the terminal every so many steps
    find_unused_parameters  needed under DDP when an ablation leaves parameters without gradient
    out_dir           folder of the run; None: runs/<config>
    backbone_weights  file of official ImageNet weights; None: random
    init_weights      a weights file of the whole model to start from
    eval_chunk        frames that pass the model together in evaluation; None: as many as the model says
    pictures          overlays of the worst and of the best frames, so many each, per evaluation set
    """

    steps: int
    batch_size: int
    save_every: int
    eval_every: int = 0
    eval_first: bool = False
    eval_last: bool = True
    keep: int = 3
    metric: str = "dice"
    seed: int = 2024
    sizes: tuple[int, ...] = (256, 288, 320, 352, 384, 416, 448)
    clip_norm: float = 0.01
    precision: str = "fp32"
    freeze_steps: int = 0
    accumulate: int = 1
    ema: float = 0.0
    compile: bool = False
    workers: int = 2
    device: str | None = None
    tf32: bool = True
    max_skipped: int = 20
    log_every: int = 20
    find_unused_parameters: bool = False
    out_dir: str | None = None
    backbone_weights: str | None = None
    init_weights: str | None = None
    eval_chunk: int | None = None
    pictures: int = 4

    def __post_init__(self) -> None:
        mistake = next(self._mistakes(), None)
        if mistake is not None:
            # Here and not above: a trainer made without a config file needs no OmegaConf.
            from lgrnet.config import ConfigError

            raise ConfigError(mistake)

    def _mistakes(self) -> Iterator[str]:
        for name in ("steps", "batch_size", "save_every", "keep", "accumulate", "max_skipped", "log_every"):
            if getattr(self, name) < 1:
                yield f"train.{name} is {getattr(self, name)}; it must be at least 1"
        if self.precision not in PRECISIONS:
            yield f"train.precision is {self.precision!r}; it must be one of {', '.join(PRECISIONS)}"
        if not 0 <= self.ema < 1:
            yield f"train.ema is {self.ema}; it must be in 0..1, for example 0.999 (0: none)"
        for name in ("clip_norm", "eval_every", "freeze_steps", "workers", "pictures"):
            if not getattr(self, name) >= 0:
                yield f"train.{name} is {getattr(self, name)}; it must be 0 (none) or more"
        if not 0 <= self.seed <= _LARGEST_SEED:
            yield f"train.seed is {self.seed}; it must be in 0..{_LARGEST_SEED}"
        if self.eval_chunk is not None and self.eval_chunk < 1:
            yield f"train.eval_chunk is {self.eval_chunk}; it must be at least 1, or null: as many as the model says"
        if any(size < 1 for size in self.sizes):
            yield f"train.sizes is {list(self.sizes)}; every size must be at least 1 ([]: frames stay as they come)"
