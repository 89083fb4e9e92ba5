"""Data sets as tensors: toys, the embedded digits, FashionMNIST and CIFAR-10."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from .cifar10 import cifar10
from .embedded import digit_images, digits, gaussian
from .fashion_mnist import fashion_mnist
from .folder import DataError, data_folder
from .record import Data

__all__ = ["Data", "DataError", "data_folder", "load"]

LOADERS: dict[str, Callable[..., Data]] = {
    "digits": digits,
    "digit-images": digit_images,
    "gaussian": gaussian,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
}


def load(name: str, **options) -> Data:
    """A data set by name: tensors ``.train_x .train_y .test_x .test_y``, ``.name``, ``.classes``.

    ======================  =====================================================  ============
    name                    what                                                   options
    ======================  =====================================================  ============
    ``"digits"``            scikit-learn's handwritten digits, ``(n, 64)``         classes
    ``"digit-images"``      the same as images, ``(n, 1, 32, 32)``                 classes
    ``"gaussian"``          Gaussian clusters, ``(n, M)``, one per class           n M N noise seed
    ``"fashion-mnist"``     FashionMNIST, ``(n, 784)``                             none
    ``"cifar10"``           CIFAR-10, ``(n, 3, 32, 32)``                           classes
    ======================  =====================================================  ============

    Inputs are float32, pixels in [0, 1]; targets are one-hot, float32. The last two are read
    from the folder that the environment variable ``FLATLIB_DATA`` names (else the user's cache
    folder), where they are downloaded on first use; every file is checked against its hash.

    Args:
        name: a name of the table.
        options: of that data set, by keyword.

    Returns:
        The samples; see :class:`Data`.

    Raises:
        ValueError: an unknown name, option or class.
        DataError: a file is missing, truncated or altered, or a download failed.

    Source: the paper's Sec. 4 and App. E; pixels are divided by their maximum, nothing else.

    >>> data = load("digits")
    >>> data.train_x.shape, data.train_y.shape, len(data.classes)
    (torch.Size([1442, 64]), torch.Size([1442, 10]), 10)
    >>> load("gaussian", n=6, M=4, N=3).train_y.sum(0)
    tensor([2., 2., 2.])
    """
    if name not in LOADERS:
        raise ValueError(f"no data set is called {name!r}; there are {', '.join(LOADERS)}")
    accepted = inspect.signature(LOADERS[name]).parameters
    unknown = sorted(set(options) - set(accepted))
    if unknown:
        raise ValueError(
            f"{name} takes no option {', '.join(unknown)}; it takes {', '.join(accepted) or 'none'}"
        )
    return LOADERS[name](**options)
