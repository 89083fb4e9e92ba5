"""The laboratory: data, training, experiments, archive, claims, figures and equations."""

from importlib import import_module

ROOMS = (
    "archive",
    "associations",
    "chapter",
    "claims",
    "data",
    "drawn",
    "equations",
    "exercises",
    "experiments",
    "figures",
    "hypotheses",
    "populations",
    "sentences",
    "statistics",
    "training",
    "verdicts",
)
HOMES = {"train": "training"}
__all__ = sorted([*ROOMS, *HOMES])


def __getattr__(name: str):
    """Import a room when it is first asked for.

    All of them and what they need take seconds, which the command line and its worker processes
    would spend on rooms that they do not enter.
    """
    if name in HOMES:
        return getattr(import_module(f"flatlib.lab.{HOMES[name]}"), name)
    if name in ROOMS:
        return import_module(f"flatlib.lab.{name}")
    raise AttributeError(f"module 'flatlib.lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
