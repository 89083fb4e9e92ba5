"""How a classifier bears what is done to its images: attacks, noise, corruptions; calibration.

Images have pixels in [0, 1], and what is made of them has, too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import protocol

BATCH = 500  # images a forward pass
SMALLEST = 1e-30  # norm that a gradient of 0 is divided by


def margin(output: Tensor, y: Tensor) -> Tensor:
    """The output of the right class minus the largest other one, ``(n,)``.

    Args:
        output: ``(n, N)``.
        y: one-hot targets, ``(n, N)``.

    >>> margin(torch.tensor([[0.9, 0.2], [0.1, 0.4]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    tensor([ 0.7000, -0.3000])
    """
    right = y.bool()
    others = output.masked_fill(right, -math.inf).amax(dim=1)
    return output[right] - others


def outputs(net: nn.Module, x: Tensor) -> Tensor:
    """The network's outputs for many images, ``(n, N)``."""
    with torch.no_grad():
        return torch.cat([net(part) for part in x.split(BATCH)])


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of images whose right class has the largest output."""
    return float((margin(outputs(net, x), y) > 0).double().mean())


def pgd_accuracies(
    net: nn.Module, x: Tensor, y: Tensor, radii: Sequence[float] = protocol.PGD_RADII
) -> list[float]:
    r"""Accuracy under projected gradient descent within L2 balls.

    .. math:: x \leftarrow \Pi\Big(x - \alpha\,
       \frac{\nabla_x m(x)}{\lVert\nabla_x m(x)\rVert_2}\Big)

    with the margin m, the step :math:`\alpha` of `protocol`, and the projection onto the ball and
    then onto pixels in [0, 1]. The attack starts at the image itself. An image counts as right
    at a radius if no step at this or a smaller radius found a wrong class, so that the accuracy is
    never below the true robust one.

    Args:
        net: in eval mode.
        x: images, ``(n, *shape)`` with pixels in [0, 1].
        y: one-hot targets.
        radii: ascending.

    Returns:
        The accuracy at each radius.

    Raises:
        ValueError: radii that are not positive and ascending.

    Source: Madry et al. (2018), with the margin of Carlini and Wagner (2017) as the loss.
    """
    if list(radii) != sorted(set(radii)) or not all(0 < radius < math.inf for radius in radii):
        raise ValueError(f"radii must be positive and ascending, got {tuple(radii)}")
    right = margin(outputs(net, x), y) > 0
    found = []
    for radius in radii:
        index = right.nonzero()[:, 0]
        for part in index.split(BATCH):
            right[part] = ~_fooled(net, x[part], y[part], radius)
        found.append(float(right.double().mean()))
    return found


def _fooled(net: nn.Module, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Which images the attack turns into another class, ``(n,)``."""
    size = protocol.PGD_STEP * radius / protocol.PGD_STEPS
    at, fooled = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for _ in range(protocol.PGD_STEPS):
        found = margin(net(at.requires_grad_()), y)
        (gradient,) = torch.autograd.grad(found.sum(), at)
        with torch.no_grad():
            fooled |= found <= 0
            away = at - size * gradient / _length(gradient) - x
            at = (x + away * (radius / _length(away)).clamp_max(1)).clamp(0, 1)
    return fooled | (margin(outputs(net, at), y) <= 0)


def _length(x: Tensor) -> Tensor:
    """The L2 norm of each image, in a shape that it can be divided by."""
    return x.flatten(1).norm(dim=1).clamp_min(SMALLEST).view(-1, *[1] * (x.dim() - 1))


def adversarial_sensitivity(
    net: nn.Module,
    x: Tensor,
    radius: float = 0.1,
    rate: float = 0.1,
    steps: int = 30,
    seed: int = 0,
) -> Tensor:
    r"""The largest difference quotient of each sample that an attack finds.

    .. math:: q(x)=\frac{\lVert f(x+\delta)-f(x)\rVert_2}{\lVert\delta\rVert_2}

    The attack starts at :math:`\delta=` ``radius`` times a Gaussian vector and lets Adam climb the
    quotient. The perturbation stays in no ball, and a step of Adam is about ``rate`` in each input
    number, whatever the radius is. As both go to 0, q comes to be at most
    :math:`\lVert\nabla_xf(x)\rVert_2`, the MLS, and for a linear network q never is more.

    Args:
        net: in eval mode; it is copied, and the copy runs in float64.
        x: ``(n, *shape)``.
        radius: of the start, each input number's standard deviation.
        rate: Adam's.
        steps: quotients that are looked at; the last one is returned.
        seed: of the start.

    Returns:
        ``(n,)`` float64. The public code of the paper's authors takes the square, with ``radius``
        and ``rate`` 0.1, for the sensitivity of vision transformers.

    Raises:
        ValueError: a radius or rate that is not positive, or no step.

    >>> net = nn.Linear(3, 1, bias=False)
    >>> q = adversarial_sensitivity(net, torch.zeros(2, 3), steps=400, rate=0.01)
    >>> bool((q - net.weight.detach().double().norm()).abs().max() < 1e-3)
    True
    """
    if not (0 < radius < math.inf and 0 < rate < math.inf and steps >= 1):
        raise ValueError(
            f"need a positive radius and rate and a step, got {radius}, {rate} and {steps} steps"
        )
    net, x = copy.deepcopy(net).double(), x.double()
    generator = torch.Generator().manual_seed(seed)
    start = radius * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    delta = start.to(x.device).requires_grad_()
    adam = torch.optim.Adam([delta], lr=rate, maximize=True)
    with torch.no_grad():
        before = net(x)
    for step in range(steps):
        moved = torch.linalg.vector_norm((net(x + delta) - before).flatten(1), dim=1)
        quotient = moved / torch.linalg.vector_norm(delta.flatten(1), dim=1)
        if step < steps - 1:
            (delta.grad,) = torch.autograd.grad(quotient.sum(), [delta])
            adam.step()
    return quotient.detach()


def gaussian_noise(x: Tensor, level: float) -> Tensor:
    """Images with Gaussian noise of this standard deviation, the same for each call."""
    generator = torch.Generator().manual_seed(protocol.NOISE_SEED)
    return (x + level * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def blur(x: Tensor) -> Tensor:
    """Images ``(n, C, H, W)`` smoothed by a Gaussian, with the border's pixels repeated outside."""
    reach = math.ceil(3 * protocol.BLUR)
    at = torch.arange(-reach, reach + 1, dtype=x.dtype)
    kernel = torch.exp(-(at**2) / (2 * protocol.BLUR**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    padded = F.pad(x, [reach] * 4, mode="replicate")
    rows = F.conv2d(padded, kernel[:, :, None, :], groups=x.shape[1])
    return F.conv2d(rows, kernel[:, :, :, None], groups=x.shape[1])


def contrast(x: Tensor) -> Tensor:
    """Images whose pixels keep a part of their distance from the image's mean."""
    mean = x.flatten(1).mean(dim=1).view(-1, *[1] * (x.dim() - 1))
    return mean + protocol.CONTRAST * (x - mean)


def brightness(x: Tensor) -> Tensor:
    """Brighter images."""
    return (x + protocol.BRIGHTNESS).clamp(0, 1)


def shot_noise(x: Tensor) -> Tensor:
    """Images made of few photons: Poisson counts, the same for each call."""
    generator = torch.Generator().manual_seed(protocol.NOISE_SEED)
    counts = torch.poisson(x * protocol.SHOT_PHOTONS, generator=generator)
    return (counts / protocol.SHOT_PHOTONS).clamp(0, 1)


def impulse_noise(x: Tensor) -> Tensor:
    """Images some of whose pixels are black or white, the same for each call."""
    generator = torch.Generator().manual_seed(protocol.NOISE_SEED)
    u = torch.rand(x.shape, generator=generator)
    x = torch.where(u < protocol.IMPULSE / 2, torch.zeros_like(x), x)
    return torch.where(u > 1 - protocol.IMPULSE / 2, torch.ones_like(x), x)


CORRUPTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "blur": blur,
    "contrast": contrast,
    "brightness": brightness,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
}


def as_images(x: Tensor) -> Tensor:
    """``(n, C, H, W)`` of images that may be flattened square ones of one channel.

    Raises:
        ValueError: flattened images that are not square.

    >>> as_images(torch.zeros(2, 784)).shape
    torch.Size([2, 1, 28, 28])
    """
    if x.dim() == 4:
        return x
    side = math.isqrt(x[0].numel())
    if side**2 != x[0].numel():
        raise ValueError(f"{x[0].numel()} pixels are no square image of one channel")
    return x.reshape(len(x), 1, side, side)


def calibration_error(output: Tensor, y: Tensor, bins: int = protocol.CALIBRATION_BINS) -> float:
    r"""Expected calibration error over bins of equal width.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n}\,\lvert\mathrm{acc}_b - \mathrm{conf}_b\rvert

    An image's confidence is its largest output, clipped to [0, 1]: with the squared loss and
    one-hot targets an output estimates its class's probability as it is, without a softmax.

    Args:
        output: ``(n, N)``.
        y: one-hot targets, ``(n, N)``.
        bins: b-th bin: confidences above (b - 1) / bins and up to b / bins; 0 is in the first.

    Source: Guo et al. (2017).

    >>> calibration_error(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2))
    0.5
    """
    confidence = output.double().amax(dim=1).clamp(0, 1)
    right = (output.argmax(dim=1) == y.argmax(dim=1)).double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, right - confidence)
    return float(gap.abs().sum() / len(output))


def robustness_row(net: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Accuracies under attack, noise and corruption, by the columns of a population's table."""
    found = pgd_accuracies(net, x, y)
    row = {f"accuracy_pgd_{r:g}": a for r, a in zip(protocol.PGD_RADII, found, strict=True)}
    for level in protocol.NOISE_LEVELS:
        row[f"accuracy_noise_{level:g}"] = accuracy(net, gaussian_noise(x, level), y)
    for name, corrupt in CORRUPTIONS.items():
        row[f"accuracy_{name}"] = accuracy(net, corrupt(as_images(x)).reshape(x.shape), y)
    return row
