"""Multi-head attention as what it is: two linear maps around a mean weighted by a softmax."""

from __future__ import annotations

import inspect
import math

import torch
import torch.nn.functional as F
from torch import Tensor

SIGNATURE = inspect.signature(F.multi_head_attention_forward)
UNUSUAL = ("bias_k", "bias_v", "static_k", "static_v")


def multi_head_attention(args: tuple, kwargs: dict) -> tuple[Tensor, Tensor | None] | None:
    """`torch.nn.functional.multi_head_attention_forward` through calls of `linear`.

    None where it attends to something else than what asks, or adds keys of its own: then the
    fused one runs.
    """
    bound = SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    x, heads = given["query"], given["num_heads"]
    unusual = given["add_zero_attn"] or any(given[name] is not None for name in UNUSUAL)
    itself = given["key"] is x and given["value"] is x and not given["use_separate_proj_weight"]
    dropped = given["training"] and given["dropout_p"] > 0
    if unusual or not itself or dropped or x.dim() != 3:
        return None
    T, n, width = x.shape
    projected = F.linear(x, given["in_proj_weight"], given["in_proj_bias"])
    q, k, v = (
        part.reshape(T, n, heads, width // heads).permute(1, 2, 0, 3)
        for part in projected.chunk(3, dim=2)
    )
    scores = q @ k.mT / math.sqrt(width // heads)
    if given["attn_mask"] is not None:  # (T, T) or (n * heads, T, T)
        mask = given["attn_mask"]
        scores = scores + _added(mask if mask.dim() == 2 else mask.view(n, heads, T, T), scores)
    if given["key_padding_mask"] is not None:
        scores = scores + _added(given["key_padding_mask"].view(n, 1, 1, T), scores)
    weights = scores.softmax(dim=3)
    attended = (weights @ v).permute(2, 0, 1, 3).reshape(T, n, width)
    output = F.linear(attended, given["out_proj_weight"], given["out_proj_bias"])
    if not given["need_weights"]:
        return output, None
    return output, weights.mean(dim=1) if given["average_attn_weights"] else weights


def _added(mask: Tensor, scores: Tensor) -> Tensor:
    """What a mask adds to the scores: minus infinity where it is True."""
    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, -math.inf)
