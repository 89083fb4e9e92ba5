"""A GPU's step captured once and replayed: launching a small network's kernels takes longer."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

WARM_UP_STEPS = 3


def exact_convolutions() -> AbstractContextManager:
    """Convolutions on a GPU in full single precision, the same from run to run."""
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


class ReplayedStep:
    """Does what ``step(index)`` does, as one CUDA graph for each shape of ``index``.

    Args:
        step: work for the GPU alone, on tensors that stay where they are; returns a tensor,
            which the next step overwrites.
        state: the tensors that ``step`` changes in place; none of them requires a gradient.
    """

    def __init__(self, step: Callable[[Tensor], Tensor], state: Sequence[Tensor]):
        self.step, self.state = step, list(state)
        self.captured: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def __call__(self, index: Tensor) -> Tensor:
        """What ``step`` returns for an index, given on any device."""
        if index.shape not in self.captured:
            self.captured[index.shape] = self._capture(index)
        graph, static_index, result = self.captured[index.shape]
        static_index.copy_(index)
        graph.replay()
        return result

    def _capture(self, index: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        device = self.state[0].device
        with torch.cuda.device(device):
            static_index = index.to(device, copy=True)
            before = [tensor.clone() for tensor in self.state]
            # Libraries choose their algorithms on first use, which a capture does not allow.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_STEPS):
                    self.step(static_index)
            torch.cuda.current_stream().wait_stream(stream)
            for tensor, value in zip(self.state, before, strict=True):
                tensor.copy_(value)
            gc.collect()  # freeing an older graph would break off the capture
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                result = self.step(static_index)
        return graph, static_index, result
