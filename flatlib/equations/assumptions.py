"""Sentences that several equations share."""

DENSE = "The first layer is a dense linear map W of the input, and W is used nowhere else."
NONZERO = "No input is the zero vector."
LIVE_LAYERS = "No layer reads a zero vector."
SHARPNESS = (
    "S is the mean of the squared gradient norms of (3); it is the trace of the Hessian where the "
    "network interpolates."
)
TRAINABLE = "W is among the parameters that S counts."
SMOOTH = "The network is differentiable at every sample (ReLU: no sample sits on a kink)."
