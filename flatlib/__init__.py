"""flatlib measures how flat a network's minimum is and how its representation is compressed."""

from flatlib import (
    bounds,
    data,
    derivatives,
    equations,
    exercises,
    experiments,
    figures,
    geometry,
    nets,
    sharpness,
    toys,
)
from flatlib.measurement import LayerMeasurement, Measurement, measure
from flatlib.sharpness import HessianTrace, hessian_trace
from flatlib.streaming import IncompleteError
from flatlib.training import train

__all__ = [
    "HessianTrace",
    "IncompleteError",
    "LayerMeasurement",
    "Measurement",
    "bounds",
    "data",
    "derivatives",
    "equations",
    "exercises",
    "experiments",
    "figures",
    "geometry",
    "hessian_trace",
    "measure",
    "nets",
    "sharpness",
    "toys",
    "train",
]
