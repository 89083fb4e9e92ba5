"""Sentences that several equations share."""

DENSE = (
    "The first layer is a dense linear map W of the input, and the input enters nowhere else; the "
    "gradient for W is the one through this layer."
)
DENSE_LAYERS = (
    "Every layer is a dense linear map of what it reads; the gradients for x^l and W_l are those "
    "through layer l alone, so a skip connection past layer l adds nothing to them."
)
TRAINABLE_LAYERS = (
    "Every W_l is among the parameters that S counts and belongs to layer l alone: none is "
    "frozen, and none is tied to another."
)
NONZERO = "No input is the zero vector."
LIVE_LAYERS = "No layer reads a zero vector."
SHARPNESS = (
    "S is the mean of the squared gradient norms of (3); it is the trace of the Hessian where the "
    "network interpolates."
)
TRAINABLE = "W is among the parameters that S counts, and it is used nowhere else."
SMOOTH = "The network is differentiable at every sample (ReLU: no sample sits on a kink)."
