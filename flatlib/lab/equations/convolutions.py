"""Convolutions in front: the three statements that replace (4) and (5) there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.nn.utils import skip_init

from flatlib.lab.equations.cases import frobenius, spectral, stream, vanishing
from flatlib.lab.equations.tight import NEARLY_EQUAL

ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.GELU, nn.Identity)


@dataclass(frozen=True)
class ConvolutionCase:
    """A convolution, an activation and a dense readout, with n images.

    The names are the paper's: ``delta`` is the derivative of f at the convolution's output,
    ``X`` the patches that the weights W see, one row a position.
    """

    net: nn.Sequential  # Conv2d, activation, Flatten, Linear
    x: Tensor  # (n, C_in, side, side)

    @property
    def convolution(self) -> nn.Conv2d:
        return self.net[0]

    @cached_property
    def W(self) -> Tensor:
        """The weights reshaped, ``(C_out, C_in k^2)``."""
        return self.convolution.weight.detach().flatten(1)

    def linear_part(self, image: Tensor) -> Tensor:
        """The convolution without its bias, as a map between flat vectors."""
        conv = self.convolution
        image = image.view(1, *self.x.shape[1:])
        weight = conv.weight.detach()
        return F.conv2d(image, weight, stride=conv.stride, padding=conv.padding).flatten()

    @cached_property
    def T_W(self) -> Tensor:
        """The dense matrix of the convolution, ``(C_out P, C_in side^2)``."""
        basis = torch.eye(self.x[0].numel(), dtype=self.x.dtype)
        return torch.stack([self.linear_part(image) for image in basis], dim=1)

    @cached_property
    def norm_T_W(self) -> Tensor:
        return torch.linalg.matrix_norm(self.T_W, 2)

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

    @cached_property
    def norm_X(self) -> Tensor:
        """Norms of the patches, ``(n, P)``."""
        return self.X.norm(dim=2)

    @cached_property
    def grad_x_2(self) -> Tensor:
        return spectral(self.grad_x)

    @cached_property
    def grad_x_F(self) -> Tensor:
        return frobenius(self.grad_x)

    @cached_property
    def grad_W_F(self) -> Tensor:
        return frobenius(self.grad_W)

    @cached_property
    def delta_F(self) -> Tensor:
        return frobenius(self.delta)

    @cached_property
    def untied_F(self) -> Tensor:
        return frobenius(self.grad_untied)

    @cached_property
    def smallest_patch(self) -> Tensor:
        return self.norm_X.amin(dim=1)

    @property
    def N(self) -> int:
        return self.grad_x.shape[1]

    @property
    def convolution_in_front(self) -> bool:
        return True

    @property
    def is_full_rank(self) -> bool:
        return True

    def at(self, k: float) -> ConvolutionCase:
        """The case itself: no power stands in its inequalities."""
        return self

    @cached_property
    def smallest_sigma(self) -> Tensor:
        """Smallest singular value of the patch matrix, 0 with more positions than entries."""
        if self.X.shape[1] > self.X.shape[2]:
            return self.X.new_zeros(len(self.X))
        return torch.linalg.svdvals(self.X)[:, -1]


def _network(C_in: int, C_out: int, side: int, N: int, generator, **options) -> nn.Sequential:
    """Random weights of the usual sizes; ``options`` are Conv2d's."""
    kernel = options.pop("kernel")
    conv = skip_init(nn.Conv2d, C_in, C_out, kernel, dtype=torch.float64, **options)
    columns = F.unfold(torch.zeros(1, C_in, side, side), kernel, **options)
    last = skip_init(nn.Linear, C_out * columns.shape[2], N, dtype=torch.float64)
    with torch.no_grad():
        for parameter in (*conv.parameters(), *last.parameters()):
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                / parameter[0].numel() ** 0.5
            )
    return nn.Sequential(conv, nn.Identity(), nn.Flatten(), last)


@lru_cache(maxsize=512)
def draw_convolution(seed: int, index: int) -> ConvolutionCase:
    """Kernels of 1 to 3, strides 1 and 2, with and without padding, one to three channels.

    Images of size 1, or of sizes 0.01 to 100 where that lets gradients vanish in no sample.
    """
    generator = torch.Generator().manual_seed(stream(seed, index))

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    kernel, side, C_in = pick(1, 3), pick(3, 5), pick(1, 3)
    padding = pick(0, 1) if kernel > 1 else 0
    net = _network(
        C_in,
        pick(1, 4),
        side,
        pick(1, 5),
        generator,
        kernel=kernel,
        stride=pick(1, 2),
        padding=padding,
    )
    net[1] = ACTIVATIONS[index % len(ACTIVATIONS)]()
    n = pick(1, 6)
    x = torch.randn(n, C_in, side, side, generator=generator, dtype=torch.float64)
    if pick(0, 1):
        exponents = 4 * torch.rand(n, 1, 1, 1, generator=generator, dtype=torch.float64) - 2
        wild = ConvolutionCase(net, x * 10**exponents)
        if not vanishing(wild.delta, wild.grad_x):
            return wild
    return ConvolutionCase(net, x)


def _tight_base(seed: int, constant: bool) -> ConvolutionCase:
    """A linear net with one output, 2x2 patches; constant images have equal patches."""
    generator = torch.Generator().manual_seed(stream(7_919, seed))
    C_in = 2 + seed % 2
    net = _network(C_in, 3, 3, 1, generator, kernel=2)
    x = torch.randn(4, C_in, 3, 3, generator=generator, dtype=torch.float64)
    if constant:
        x = x[:, :, :1, :1].expand(x.shape).contiguous()
    return ConvolutionCase(net, x)


@lru_cache(maxsize=64)
def aligned(seed: int) -> ConvolutionCase:
    """Constant images, and a readout along the top left singular vector of T_W.

    One pixel of each image is smaller by 4e-10 of itself, so no patch may stand for another.
    """
    case = _tight_base(seed, constant=True)
    x = case.x.clone()
    x[:, :, 0, 0] *= 1 - NEARLY_EQUAL
    case = ConvolutionCase(case.net, x)
    with torch.no_grad():
        case.net[3].weight.copy_(1.7 * torch.linalg.svd(case.T_W).U[:, :1].T)
    return case


@lru_cache(maxsize=64)
def cancelling(seed: int) -> ConvolutionCase:
    """A readout along the patch matrix's smallest left singular vector; one image."""
    case = _tight_base(seed, constant=False)
    case = ConvolutionCase(case.net, case.x[:1])
    weakest = torch.linalg.svd(case.X[0]).U[:, -1]
    channels = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    with torch.no_grad():
        case.net[3].weight.copy_(torch.outer(channels, weakest).view(1, -1))
    return case


@lru_cache(maxsize=64)
def one_position(seed: int) -> ConvolutionCase:
    """A kernel as large as the image, so a dense layer, with a readout along W's top direction."""
    generator = torch.Generator().manual_seed(stream(7_919, seed))
    net = _network(2, 3, 2, 1, generator, kernel=2)
    x = torch.randn(4, 2, 2, 2, generator=generator, dtype=torch.float64)
    case = ConvolutionCase(net, x)
    with torch.no_grad():
        net[3].weight.copy_(torch.linalg.svd(case.W).U[:, :1].T)
    return case
