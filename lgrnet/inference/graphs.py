"""Inference at fixed shapes by CUDA graphs: the kernels of a forward pass are recorded once and handed over at once.

A short clip asks for thousands of small kernels, and the GPU waits for the host to name each of them. A graph names
them all in one call (CUDA Programming Guide, "CUDA Graphs").
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from lgrnet.records import Prediction
from lgrnet.structures import ClipInfo, SegOutput

WARM_UPS = 3
"""Calls before the recording: kernels are compiled, libraries choose theirs, and constants are made."""


class GraphedModel(nn.Module):
    """A model on a GPU whose inference is recorded once for each shape of frames and then replayed.

    It stands wherever the model does, in `Predictor` too. Outputs are the caller's own; they have no `aux`. In training
    mode and where gradients are wanted the model itself runs.

    model   frames [B, T, 3, H, W] -> SegOutput, without a wait for the GPU on the way; it is put in eval mode
    shapes  how many shapes are kept; the one that was used longest ago makes room for another

    Weights may change in place (load_state_dict). Moving or casting the model, or a part of it, and giving it another
    parameter or buffer forgets what was recorded: every call asks all of them where they lie, which costs LGRNet's 656
    about 0.1 ms. It does not see that a module of the model was replaced by another; make a new GraphedModel then. The
    settings of autocast and TF32 are those of the first call of a shape. Raises ValueError where there is no GPU and
    for frames that are not on one.
    """

    def __init__(self, model: nn.Module, shapes: int = 4):
        super().__init__()
        if shapes < 1:
            raise ValueError(f"shapes is {shapes}, expected at least 1")
        if not torch.cuda.is_available():
            raise ValueError("a CUDA graph needs a GPU, but PyTorch sees none here; use the model itself")
        self.model = model.eval()
        self.shapes = shapes
        self._replays: OrderedDict[tuple, Callable[[Tensor], SegOutput]] = OrderedDict()
        # Kept, since to walk through the modules takes 20 times as long as to ask their tensors.
        self._tensors = [found for part in model.modules() for found in (part._parameters, part._buffers) if found]
        self._addresses: list[int] = []
        self._pool = self._stream = self._side = None
        self.eval()

    @property
    def stride(self) -> int:
        """What H and W are multiples of, as the model has it."""
        return self.model.stride

    def forward(self, frames: Tensor) -> SegOutput:
        """frames [B, T, 3, H, W] on a GPU -> mask_logits and class_logits, as from the model"""
        if self.training or torch.is_grad_enabled():
            return self.model(frames)
        if not frames.is_cuda:
            raise ValueError(f"frames are on {frames.device}, expected a GPU; move them, or use the model itself")
        addresses = [t.data_ptr() for found in self._tensors for t in found.values() if t is not None]
        if addresses != self._addresses:
            self._replays.clear()
            self._addresses = addresses
        half = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        key = (tuple(frames.shape), frames.dtype, frames.device, half, torch.is_inference_mode_enabled())
        if key not in self._replays:
            while len(self._replays) >= self.shapes:
                self._replays.popitem(last=False)
            self._replays[key] = self._record(frames, half)
        self._replays.move_to_end(key)
        return self._replays[key](frames)

    def predict(self, output: SegOutput, info: ClipInfo, **options) -> Prediction:
        """By the model's rule."""
        return self.model.predict(output, info, **options)

    def _record(self, frames: Tensor, half: torch.dtype | None) -> Callable[[Tensor], SegOutput]:
        """Runs the model a few times beside the current stream, records it, and gives what replays it."""
        if not self._replays:
            # Both end with the last graph that they served, and streams that torch shares with other models may be of
            # another GPU.
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(frames.device)
            # One for all: cuBLAS keeps a workspace for each stream that it has seen.
            self._side = torch.cuda.Stream(frames.device)
        with torch.cuda.device(frames.device):
            own = frames.clone(memory_format=torch.contiguous_format)
            self._side.wait_stream(torch.cuda.current_stream())
            # Casts that autocast keeps would be freed at its end, and the graph would read freed memory.
            with torch.autocast("cuda", half, enabled=half is not None, cache_enabled=False):
                with torch.cuda.stream(self._side):
                    for _ in range(WARM_UPS):
                        self.model(own)
                torch.cuda.current_stream().wait_stream(self._side)
                graph = torch.cuda.CUDAGraph()
                # Loader threads may go on using the GPU meanwhile.
                with torch.cuda.graph(graph, self._pool, self._stream, "thread_local"):
                    output = self.model(own)
        return _replay(graph, own, replace(output, aux=()))

    def _apply(self, fn, recurse=True):
        # The graphs hold the addresses of the weights.
        self._replays.clear()
        return super()._apply(fn, recurse)


def _replay(graph: torch.cuda.CUDAGraph, own: Tensor, output: SegOutput) -> Callable[[Tensor], SegOutput]:
    """Copies frames to where the graph reads them, replays it, and copies what it wrote: the next one overwrites it."""

    def replay(frames: Tensor) -> SegOutput:
        own.copy_(frames)
        graph.replay()
        classes = None if output.class_logits is None else output.class_logits.clone()
        return replace(output, mask_logits=output.mask_logits.clone(), class_logits=classes)

    return replay
