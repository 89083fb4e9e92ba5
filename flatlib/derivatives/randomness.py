"""Whether a network draws random numbers, while other threads may draw some, too."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .float64 import Float64Network, in_full


class RandomState:
    """The random numbers that operations on a device draw from, at the time of making this."""

    def __init__(self, device: torch.device):
        self.device = device
        self.before = self._states()

    def _states(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        return states

    def check_untouched(self, network: Float64Network, x: Tensor) -> None:
        """Refuse ``network`` if it draws for ``x``, and put the random state back then."""
        pairs = zip(self.before, self._states(), strict=True)
        if all(torch.equal(was, now) for was, now in pairs):
            return
        drawing = _Drawing()  # or it was another thread
        with drawing:
            network(in_full(x))
        if drawing.operation is None:
            return
        torch.set_rng_state(self.before[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.before[1], self.device)
        raise ValueError(
            f"the network draws random numbers in its forward ({drawing.operation}), so it is not "
            "deterministic, be it rarely; switch off its randomness (net.eval())"
        )


class _Drawing(TorchDispatchMode):
    """Notes an operation that draws from the global random state, in this thread."""

    def __init__(self):
        super().__init__()
        self.operation: str | None = None

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        drawn = torch.Tag.nondeterministic_seeded in function.tags
        if drawn and kwargs.get("generator") is None:
            self.operation = str(function)
        return function(*args, **kwargs)
