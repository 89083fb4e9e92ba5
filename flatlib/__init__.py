"""flatlib measures how flat a network's minimum is and how its representation is compressed."""

from importlib import import_module

ROOMS = (
    "bounds",
    "data",
    "derivatives",
    "equations",
    "exercises",
    "experiments",
    "figures",
    "geometry",
    "measurement",
    "nets",
    "sharpness",
    "toys",
    "training",
)
HOMES = {  # names that most readers need: the rooms that they stand in
    "HessianTrace": "sharpness",
    "IncompleteError": "streaming",
    "LayerMeasurement": "measurement",
    "Measurement": "measurement",
    "hessian_trace": "sharpness",
    "measure": "measurement",
    "train": "training",
}
__all__ = sorted([*ROOMS, *HOMES])


def __getattr__(name: str):
    """Import a room when it is first asked for.

    All of them and what they need take seconds, which the command line and its worker processes
    would spend on rooms that they do not enter.
    """
    if name in HOMES:
        return getattr(import_module(f"flatlib.{HOMES[name]}"), name)
    if name in ROOMS:
        return import_module(f"flatlib.{name}")
    raise AttributeError(f"module 'flatlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
