"""flatlib measures how flat a network's minimum is and how its representation is compressed.

What a researcher imports stands here and needs PyTorch, NumPy and SciPy alone. The laboratory of
one paper, `flatlib.lab`, trains its networks, keeps their runs and draws its figures.
"""

from importlib import import_module

__version__ = "0.2.0"

ROOMS = (
    "bounds",
    "checkpoint",
    "comparisons",
    "derivatives",
    "gap",
    "geometry",
    "inequalities",
    "lab",
    "lanczos",
    "matrix_free",
    "measurement",
    "nets",
    "operators",
    "patches",
    "representations",
    "sharpness",
    "toys",
    "traces",
)
HOMES = {  # names that most readers need: the rooms that they stand in
    "HessianTrace": "sharpness",
    "IncompleteError": "streaming",
    "LayerMeasurement": "measurement",
    "MatrixFreeMeasurement": "matrix_free",
    "Measurement": "measurement",
    "NotConvergedError": "matrix_free",
    "hessian_trace": "sharpness",
    "measure": "measurement",
    "measurement_row": "checkpoint",
}
__all__ = sorted([*ROOMS, *HOMES])


def __getattr__(name: str):
    """Import a room when it is first asked for."""
    if name in HOMES:
        return getattr(import_module(f"flatlib.{HOMES[name]}"), name)
    if name in ROOMS:
        return import_module(f"flatlib.{name}")
    raise AttributeError(f"module 'flatlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
