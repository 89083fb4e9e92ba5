"""`attention`: linear maps, one by one, give what PyTorch's fused attention gives."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from inputs import gaussian
from torch import Tensor, nn

from flatlib.derivatives.attention import Part, are_apart, multi_head_attention, projections

T, S, N_SAMPLES, WIDTH, HEADS = 4, 5, 3, 6, 2


def arguments(module: nn.MultiheadAttention, key: Tensor | None = None) -> tuple:
    """What `nn.MultiheadAttention` hands to the function, by position."""
    query = gaussian(T, N_SAMPLES, WIDTH, seed=1).double()
    key = query if key is None else key
    return (
        *(query, key, key, WIDTH, HEADS, module.in_proj_weight, module.in_proj_bias),
        *(None, None, False, 0.0, module.out_proj.weight, module.out_proj.bias),
    )


def attention(**options) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    return nn.MultiheadAttention(WIDTH, HEADS, **options).double().eval()


def assert_same(args: tuple, **kwargs) -> None:
    fused = F.multi_head_attention_forward(*args, training=False, **kwargs)
    plain = multi_head_attention(args, {"training": False, **kwargs})
    for mine, its in zip(plain, fused, strict=True):
        assert (mine is None) == (its is None)
        if its is not None:
            torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-13)


CAUSAL = torch.full((T, T), -math.inf, dtype=torch.float64).triu(1)
PADDED = torch.tensor([[False] * 3 + [True]] * N_SAMPLES)
MASKS = {
    "none": {},
    "numbers": {"attn_mask": CAUSAL},
    "truth": {"attn_mask": CAUSAL.isinf()},
    "a head's own": {"attn_mask": gaussian(N_SAMPLES * HEADS, T, T).double()},
    "padding": {"key_padding_mask": PADDED},
    "both": {"attn_mask": CAUSAL.isinf(), "key_padding_mask": PADDED},
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("bias", [True, False])
def test_to_itself_with_every_mask(mask, bias):
    assert_same(arguments(attention(bias=bias)), **MASKS[mask])


@pytest.mark.parametrize("weights", [{"need_weights": False}, {"average_attn_weights": False}, {}])
def test_to_others_and_with_the_weights_that_are_asked_for(weights):
    assert_same(arguments(attention(), gaussian(S, N_SAMPLES, WIDTH).double()), **weights)


def test_what_adds_keys_of_its_own_is_left_to_pytorch():
    args = list(arguments(attention()))
    args[9] = True  # a key of zeros
    assert multi_head_attention(tuple(args), {"training": False}) is None


@pytest.mark.parametrize("options", [{}, {"kdim": 4, "vdim": 3}, {"bias": False}])
def test_the_maps_to_queries_keys_and_values_are_parts_of_the_modules_parameters(options):
    module = attention(**options)
    found = projections(module)
    assert list(found) == ([] if "kdim" in options else ["in_proj"]) + [
        "q_proj",
        "k_proj",
        "v_proj",
    ]
    for index, name in enumerate(("q_proj", "k_proj", "v_proj")):
        layer, _ = found[name]
        own = getattr(module, f"{name}_weight")
        expected = module.in_proj_weight.chunk(3)[index] if own is None else own
        assert torch.equal(layer.weight, expected)
        assert (layer.bias is None) == (module.in_proj_bias is None)
        if layer.bias is not None:
            assert torch.equal(layer.bias, module.in_proj_bias.chunk(3)[index])


def test_parts_are_apart_where_no_row_belongs_to_two():
    assert are_apart([Part("w", 0, 3), Part("w", 2, 3)])
    assert not are_apart([Part("w", 0, 3), Part("w", 0, 3)])
    assert not are_apart([Part("w", 0, 3), Part("w", 1, 2)])
