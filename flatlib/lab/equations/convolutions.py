"""Convolutions in front: the three statements that replace (4) and (5) there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.nn.utils import skip_init

from flatlib.lab.equations.cases import Norms, frobenius, vanishing
from flatlib.lab.equations.draws import Draws, family
from flatlib.lab.equations.tight import NEARLY_EQUAL

ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.GELU, nn.Identity)


@dataclass(frozen=True)
class ConvolutionCase(Norms):
    """A convolution, an activation and a dense readout, with n images.

    The names are the paper's: ``delta`` is the derivative of f at the convolution's output,
    ``X`` the patches that the weights W see, one row a position.
    """

    net: nn.Sequential  # Conv2d, activation, Flatten, Linear
    x: Tensor  # (n, C_in, side, side)

    N = property(lambda c: c.grad_x.shape[1])
    convolution_in_front = is_full_rank = True
    convolution = property(lambda c: c.net[0])
    W = cached_property(lambda c: c.convolution.weight.detach().flatten(1))  # (C_out, C_in k^2)

    def at(self, k: float) -> ConvolutionCase:
        """The case itself: no power stands in its inequalities."""
        return self

    @cached_property
    def T_W(self) -> Tensor:
        """The dense matrix of the convolution without its bias, ``(C_out P, C_in side^2)``."""
        conv, pixels = self.convolution, self.x[0].numel()
        basis = torch.eye(pixels, dtype=self.x.dtype).view(pixels, 1, *self.x.shape[1:])
        where = {"stride": conv.stride, "padding": conv.padding}
        columns = [F.conv2d(image, conv.weight.detach(), **where).flatten() for image in basis]
        return torch.stack(columns, dim=1)

    @cached_property
    def X(self) -> Tensor:
        """``(n, P, C_in k^2)``."""
        conv = self.convolution
        return F.unfold(self.x, conv.kernel_size, padding=conv.padding, stride=conv.stride).mT

    def _readout(self, z: Tensor) -> Tensor:
        """f from the convolution's output ``(C_out, P)`` at one sample."""
        return self.net[3](self.net[1](z).flatten())

    def _untied(self, weights: Tensor, X: Tensor) -> Tensor:
        """f at one sample with weights ``(P, C_out, C_in k^2)``, one copy a position."""
        z = torch.einsum("pcd,pd->cp", weights, X) + self.convolution.bias[:, None]
        return self._readout(z)

    def _tied(self, weights: Tensor, X: Tensor) -> Tensor:
        return self._untied(weights.expand(len(X), *weights.shape), X)

    @cached_property
    def grad_x(self) -> Tensor:
        """``(n, N, C_in side^2)``."""
        return vmap(jacrev(lambda image: self.net(image[None])[0]))(self.x).flatten(2).detach()

    @cached_property
    def delta(self) -> Tensor:
        """``(n, N, C_out, P)``."""
        z = (self.X @ self.W.T).mT + self.convolution.bias[:, None]
        return vmap(jacrev(self._readout))(z).detach()

    @cached_property
    def grad_untied(self) -> Tensor:
        """``(n, N, P, C_out, C_in k^2)``, autograd through one copy of W a position."""
        copies = self.W.expand(self.X.shape[1], *self.W.shape)
        return vmap(jacrev(self._untied), (None, 0))(copies, self.X).detach()

    @cached_property
    def grad_W(self) -> Tensor:
        """``(n, N, C_out, C_in k^2)``, autograd through the shared weights."""
        return vmap(jacrev(self._tied), (None, 0))(self.W, self.X).detach()

    norm_T_W = cached_property(lambda c: torch.linalg.matrix_norm(c.T_W, 2))
    norm_X = cached_property(lambda c: c.X.norm(dim=2))  # of the patches, (n, P)
    delta_F = cached_property(lambda c: frobenius(c.delta))
    untied_F = cached_property(lambda c: frobenius(c.grad_untied))
    smallest_patch = cached_property(lambda c: c.norm_X.amin(dim=1))

    @cached_property
    def smallest_sigma(self) -> Tensor:
        """Smallest singular value of the patch matrix, 0 with more positions than entries."""
        if self.X.shape[1] > self.X.shape[2]:
            return self.X.new_zeros(len(self.X))
        return torch.linalg.svdvals(self.X)[:, -1]


def _network(C_in: int, C_out: int, side: int, N: int, draws: Draws, **options) -> nn.Sequential:
    """Random weights of the usual sizes; ``options`` are Conv2d's."""
    kernel = options.pop("kernel")
    conv = skip_init(nn.Conv2d, C_in, C_out, kernel, dtype=torch.float64, **options)
    columns = F.unfold(torch.zeros(1, C_in, side, side), kernel, **options)
    last = skip_init(nn.Linear, C_out * columns.shape[2], N, dtype=torch.float64)
    with torch.no_grad():
        for parameter in (*conv.parameters(), *last.parameters()):
            parameter.copy_(draws.normal(*parameter.shape) / parameter[0].numel() ** 0.5)
    return nn.Sequential(conv, nn.Identity(), nn.Flatten(), last)


@lru_cache(maxsize=512)
def draw_convolution(seed: int, index: int) -> ConvolutionCase:
    """Kernels of 1 to 3, strides 1 and 2, with and without padding, one to three channels.

    Images of size 1, or of sizes 0.01 to 100 where that lets gradients vanish in no sample.
    """
    draws = Draws(seed, index)
    pick = draws.integer
    kernel, side, C_in = pick(1, 3), pick(3, 5), pick(1, 3)
    padding, C_out, N = pick(0, 1) if kernel > 1 else 0, pick(1, 4), pick(1, 5)
    options = {"kernel": kernel, "stride": pick(1, 2), "padding": padding}
    net = _network(C_in, C_out, side, N, draws, **options)
    net[1] = ACTIVATIONS[index % len(ACTIVATIONS)]()
    n = pick(1, 6)
    x = draws.normal(n, C_in, side, side)
    if pick(0, 1):
        wild = ConvolutionCase(net, x * 10 ** draws.uniform(-2, 2, n, 1, 1, 1))
        if not vanishing(wild.delta, wild.grad_x):
            return wild
    return ConvolutionCase(net, x)


def _linear(draws: Draws) -> ConvolutionCase:
    """A linear net with one output, 2x2 patches."""
    C_in = 2 + draws.index % 2
    net = _network(C_in, 3, 3, 1, draws, kernel=2)
    return ConvolutionCase(net, draws.normal(4, C_in, 3, 3))


def _reading(case: ConvolutionCase, weights: Tensor) -> ConvolutionCase:
    """The case with the readout's weights, one row."""
    with torch.no_grad():
        case.net[3].weight.copy_(weights.reshape(1, -1))
    return case


@family
def aligned(draws: Draws) -> ConvolutionCase:
    """Constant images, and a readout along the top left singular vector of T_W.

    One pixel of each image is smaller by 4e-10 of itself, so no patch may stand for another.
    """
    case = _linear(draws)
    x = case.x[:, :, :1, :1].repeat(1, 1, 3, 3)
    x[:, :, 0, 0] *= 1 - NEARLY_EQUAL
    case = ConvolutionCase(case.net, x)
    return _reading(case, 1.7 * torch.linalg.svd(case.T_W).U[:, 0])


@family
def cancelling(draws: Draws) -> ConvolutionCase:
    """A readout along the patch matrix's smallest left singular vector; one image."""
    case = _linear(draws)
    case = ConvolutionCase(case.net, case.x[:1])
    channels = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    return _reading(case, torch.outer(channels, torch.linalg.svd(case.X[0]).U[:, -1]))


@family
def one_position(draws: Draws) -> ConvolutionCase:
    """A kernel as large as the image, so a dense layer, with a readout along W's top direction."""
    net = _network(2, 3, 2, 1, draws, kernel=2)
    case = ConvolutionCase(net, draws.normal(4, 2, 2, 2))
    return _reading(case, torch.linalg.svd(case.W).U[:, 0])
