"""Multi-head attention as what it is: linear maps around a mean weighted by a softmax."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIGNATURE = inspect.signature(F.multi_head_attention_forward)
UNUSUAL = ("bias_k", "bias_v", "static_k", "static_v")
PROJECTIONS = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Part:
    """A parameter, or one of several equal parts of its rows."""

    name: str
    index: int = 0
    count: int = 1


def are_apart(parts: Sequence[Part]) -> bool:
    """Whether no row of one parameter belongs to two of its parts."""
    indices = {part.index for part in parts}
    return len(indices) == len(parts) and len({part.count for part in parts}) == 1


Owned = dict[str, tuple[Tensor | None, int, int]]  # a parameter, which part, of how many


def projections(module: nn.MultiheadAttention) -> dict[str, tuple[nn.Linear, Owned]]:
    """The linear maps to queries, keys and values as layers of their own, in one and in three."""
    own = module._parameters
    packed, bias = own.get("in_proj_weight"), own.get("in_proj_bias")
    made: dict[str, Owned] = {}
    if packed is not None:
        made["in_proj"] = {"weight": (packed, 0, 1), "bias": (bias, 0, 1)}
    for index, name in enumerate(PROJECTIONS):
        weight = own.get(f"{name}_weight")
        if packed is not None or weight is not None:
            parts = (packed, index, 3) if weight is None else (weight, 0, 1)
            made[name] = {"weight": parts, "bias": (bias, index, 3)}
    return {name: (_linear(parts), parts) for name, parts in made.items()}


def _linear(owned: Owned) -> nn.Linear:
    """A layer whose numbers are those of parts of parameters."""
    layer = nn.Linear(1, 1, device="meta")
    for name, (parameter, index, count) in owned.items():
        numbers = None if parameter is None else parameter.detach().chunk(count)[index]
        setattr(layer, name, None if numbers is None else nn.Parameter(numbers, False))
    return layer


def multi_head_attention(args: tuple, kwargs: dict) -> tuple[Tensor, Tensor | None] | None:
    """`torch.nn.functional.multi_head_attention_forward` through calls of `linear`.

    One call maps what attends to itself to queries, keys and values, and three map anything else.
    None where keys are added that come from no input: then the fused one runs.
    """
    bound = SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    query, key, value, heads = given["query"], given["key"], given["value"], given["num_heads"]
    unusual = given["add_zero_attn"] or any(given[name] is not None for name in UNUSUAL)
    dropped = given["training"] and given["dropout_p"] > 0
    if unusual or dropped or query.dim() != 3:
        return None
    T, n, width = query.shape
    S = len(key)
    packed = not given["use_separate_proj_weight"]
    if packed and key is query and value is query:
        projected = F.linear(query, given["in_proj_weight"], given["in_proj_bias"]).chunk(3, dim=2)
    else:
        weights = [given[f"{name}_weight"] for name in PROJECTIONS]
        weights = given["in_proj_weight"].chunk(3) if packed else weights
        bias = given["in_proj_bias"]
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        projected = map(F.linear, (query, key, value), weights, biases)
    q, k, v = (
        part.reshape(len(part), n, heads, width // heads).permute(1, 2, 0, 3) for part in projected
    )
    scores = q @ k.mT / math.sqrt(width // heads)
    mask, padding = given["attn_mask"], given["key_padding_mask"]
    if given["is_causal"] and padding is None and not given["need_weights"]:
        # PyTorch takes the word for the mask, whatever the mask is.
        mask = torch.ones(T, S, dtype=torch.bool, device=query.device).triu(1)
    if mask is not None:  # (T, S) or (n * heads, T, S)
        scores = scores + _added(mask if mask.dim() == 2 else mask.view(n, heads, T, S), scores)
    if padding is not None:
        scores = scores + _added(padding.view(n, 1, 1, S), scores)
    if given["need_weights"] or (mask is None and padding is None):
        weights = scores.softmax(dim=3)
    else:  # without weights PyTorch attends to nothing where everything is hidden
        hidden = (scores == -math.inf).all(dim=3, keepdim=True)
        weights = scores.masked_fill(hidden, 0.0).softmax(dim=3).masked_fill(hidden, 0.0)
    attended = (weights @ v).permute(2, 0, 1, 3).reshape(T, n, width)
    output = F.linear(attended, given["out_proj_weight"], given["out_proj_bias"])
    if not given["need_weights"]:
        return output, None
    return output, weights.mean(dim=1) if given["average_attn_weights"] else weights


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` by operations with second derivatives."""
    if attn_mask is not None and attn_mask.dtype is torch.bool:  # True where it may be looked at
        attn_mask = _added(~attn_mask, query)
    math_of = torch.ops.aten._scaled_dot_product_attention_math
    return math_of(query, key, value, attn_mask, dropout_p, is_causal, **options)[0]


def _added(mask: Tensor, scores: Tensor) -> Tensor:
    """What a mask adds to the scores: minus infinity where it is True."""
    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, -math.inf)
