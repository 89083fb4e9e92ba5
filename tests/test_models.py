"""Models of torchvision, small: measured out of the box, and right."""

from __future__ import annotations

import pytest
import torch
from test_layers import assert_energies, drawn, gaussian

from flatlib.lab.data import vision

vision.datasets()  # torchvision imports beside any build of torch after this
models = pytest.importorskip("torchvision.models")
swin = models.swin_transformer


def small_swin(**version):
    return swin.SwinTransformer([4, 4], 12, [1, 1], [2, 4], [4, 4], num_classes=2, **version)


MODELS = {
    "ViT": lambda: models.VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=2),
    "Swin": small_swin,
    "Swin V2": lambda: small_swin(
        block=swin.SwinTransformerBlockV2, downsample_layer=swin.PatchMergingV2
    ),
    "ConvNeXt": lambda: models.convnext.ConvNeXt(
        [models.convnext.CNBlockConfig(8, 16, 1), models.convnext.CNBlockConfig(16, None, 1)],
        num_classes=2,
    ),
    "ResNet-18": lambda: models.resnet18(num_classes=2),
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
