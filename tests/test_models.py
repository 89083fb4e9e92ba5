"""Models of torchvision, small: measured out of the box, and right."""

from __future__ import annotations

import pytest
import torch
from test_layers import assert_energies, drawn, gaussian

from flatlib.lab.data import vision


def small_swin(**version):
    return models().swin_transformer.SwinTransformer(
        [4, 4], 12, [1, 1], [2, 4], [4, 4], num_classes=2, **version
    )


def models():
    """torchvision's, which take seconds to import."""
    vision.datasets()  # torchvision imports beside any build of torch after this
    return pytest.importorskip("torchvision.models")


def second_version():
    swin = models().swin_transformer
    return small_swin(block=swin.SwinTransformerBlockV2, downsample_layer=swin.PatchMergingV2)


def small_convnext():
    convnext = models().convnext
    blocks = [convnext.CNBlockConfig(8, 16, 1), convnext.CNBlockConfig(16, None, 1)]
    return convnext.ConvNeXt(blocks, num_classes=2)


MODELS = {
    "ViT": lambda: models().VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=2),
    "Swin": small_swin,
    "Swin V2": second_version,
    "ConvNeXt": small_convnext,
    "ResNet-18": lambda: models().resnet18(num_classes=2),
}
# A table of positions that is looked up, a scale that an exponential is taken of.
SLOWER = {"Swin": "relative_position_bias_table", "Swin V2": "logit_scale"}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_measured_as_it_is(name):
    net = drawn(MODELS[name])
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.02 * torch.randn_like(parameter)  # some start at 0
    m = assert_energies(net, gaussian(1 if name == "ResNet-18" else 2, 3, 32, 32))
    slower = [word for word, how in m.other_parameters.items() if how != "formula"]
    assert bool(slower) == (name in SLOWER) and "loop" not in m.other_parameters.values()
    assert any(SLOWER.get(name, "") in word for word in slower) == bool(slower)
    assert name == "Swin V2" or not m.other_layers
    attention = {"ViT": "self_attention.in_proj", "Swin": "attn.qkv"}.get(name, "")
    assert any(layer.name.endswith(attention) for layer in m.layers)
