"""flatlib measures how flat a network's minimum is and how its representation is compressed."""

from flatlib import bounds, derivatives, geometry, nets, sharpness
from flatlib.measurement import LayerMeasurement, Measurement, measure
from flatlib.sharpness import HessianTrace, hessian_trace

__all__ = [
    "HessianTrace",
    "LayerMeasurement",
    "Measurement",
    "bounds",
    "derivatives",
    "geometry",
    "hessian_trace",
    "measure",
    "nets",
    "sharpness",
]
