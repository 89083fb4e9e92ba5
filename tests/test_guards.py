"""Faults of other packages that the code guards against, each in its smallest form.

A test fails once the package that is installed has mended its fault. The guard that the test names
can then go, as soon as the lowest version that pyproject.toml allows is a mended one.
"""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path

import accessible_pages
import numpy as np
import offline_site
import pytest
import torch
import torch.nn.functional as F
from inputs import gaussian
from scipy import stats
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

CAN_GO = "the installed version has mended this fault, and the guard can go: "


def in_two_layouts(normalize, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The input's gradient, from what flows back as it lies in memory, and from a plain copy."""
    x = x.requires_grad_()
    output, plain = normalize(x), gradient.clone(memory_format=torch.contiguous_format)
    return tuple(
        torch.autograd.grad(output, x, flows_back, retain_graph=True)[0]
        for flows_back in (gradient, plain)
    )


@pytest.mark.parametrize("n, name", [(1, "batch_norm"), (1, "instance_norm"), (2, "instance_norm")])
def test_normalization_confuses_the_axes_of_gradients_with_positions_in_front(n, name):
    x, gradient = gaussian(n, 4, 3, 3).double(), gaussian(3, 3, n, 4, seed=1).double()
    normalize = {
        "batch_norm": lambda x: F.batch_norm(x, x.new_zeros(4), x.new_ones(4)),
        "instance_norm": F.instance_norm,
    }[name]
    odd, plain = in_two_layouts(normalize, x, gradient.permute(2, 3, 0, 1))
    assert torch.autograd.gradcheck(normalize, x)  # which lets plain gradients flow back
    assert float((odd - plain).abs().max()) > 0.1, CAN_GO + "InFloat64._normalized"


def test_fused_attention_cannot_be_differentiated_twice():
    q = gaussian(1, 1, 3, 2).double().requires_grad_()
    out = F.scaled_dot_product_attention(q, q, q)
    first = torch.autograd.grad(out.sum(), q, create_graph=True)[0]
    try:
        torch.autograd.grad(first.square().sum(), q)
    except RuntimeError as error:
        assert "_scaled_dot_product_flash_attention" in str(error), error
    else:
        pytest.fail(CAN_GO + "plain attention in InFloat64.__torch_function__")


def test_the_second_derivative_of_a_fused_weight_norm_is_wrong():
    v, g = (
        gaussian(3, 4).double().requires_grad_(),
        gaussian(3, 1, seed=1).double().requires_grad_(),
    )

    def first(fused: bool) -> torch.Tensor:
        weight = torch._weight_norm(v, g, 0) if fused else v * (g / v.norm(dim=1, keepdim=True))
        return torch.autograd.grad(weight.pow(3).sum(), v, create_graph=True)[0]

    assert torch.allclose(first(True), first(False))
    second = [torch.autograd.grad(first(fused).pow(2).sum(), v)[0] for fused in (True, False)]
    assert not torch.allclose(*second), CAN_GO + "_weight_normalized in derivatives.float64"


def test_a_copy_of_a_parametrized_module_reads_the_cache_of_the_original():
    module = parametrizations.weight_norm(nn.Linear(2, 2))
    twin = copy.deepcopy(module)
    with torch.no_grad():
        twin.parametrizations.weight.original0.mul_(2)
    assert torch.allclose(twin.weight, 2 * module.weight)
    with parametrize.cached():
        first, second = module.weight, twin.weight
        assert second is first, CAN_GO + "copying._compute_anew"


GROUP_NORM = """
import torch
x = torch.ones(2, 4, 3, 3).contiguous(memory_format={layout})
weight = torch.ones(4, requires_grad=True)
torch.autograd.grad(torch.nn.functional.group_norm(x, 2, weight).sum(), weight)
"""


def test_group_norm_ends_the_process_where_only_its_scale_is_differentiated():
    ended = {
        layout: subprocess.run([sys.executable, "-c", GROUP_NORM.format(layout=layout)]).returncode
        for layout in ("torch.contiguous_format", "torch.channels_last")
    }
    assert ended["torch.contiguous_format"] == 0
    assert ended["torch.channels_last"] != 0, CAN_GO + "``along`` in others.py"


def test_an_operator_that_is_not_there_cannot_be_described():
    with pytest.raises(RuntimeError, match="operator flatlib_nowhere::nms does not exist"):
        torch.library.register_fake("flatlib_nowhere::nms")(lambda boxes: boxes)
    described = source("torchvision", "_meta_registrations.py")
    for operator in ("nms", "qnms"):
        assert f'register_fake("torchvision::{operator}")' in described, CAN_GO + "vision.py"


def test_scipy_warns_of_differences_that_are_all_one_number():
    with pytest.warns(RuntimeWarning, match="Precision loss occurred"):
        stats.ttest_1samp(np.array([0.5, 0.5]), 0.0)


def source(package: str, file: str) -> str:
    """A file of an installed package."""
    return (Path(importlib.util.find_spec(package).origin).parent / file).read_text()


THEME = "theme/pydata_sphinx_theme"
SEARCH = "title=\"{{ _('Search') }}\" aria-label=\"{{ _('Search') }}\""
WRITTEN_BY = (  # what the entries of `accessible_pages.MENDED` exchange, in their order
    ("docutils", "writers/_html_base.py", '<div role="list" class="citation-list">'),
    ("docutils", "writers/_html_base.py", 'role="doc-biblioentry"'),
    ("pydata_sphinx_theme", f"{THEME}/components/search-button-field.html", SEARCH),
    ("myst_nb", "sphinx_.py", '<summary aria-label="Toggle hidden content">'),
    ("sphinx_exercise", "directive.py", 'ids=["exercise-content"]'),
    ("sphinx_exercise", "directive.py", 'ids=["solution-content"]'),
    ("sphinx_proof", "directive.py", 'ids=["proof-content"]'),
    ("pydata_sphinx_theme", f"{THEME}/components/search-field.html", 'id="search-input"'),
)


@pytest.mark.parametrize("place", range(len(accessible_pages.MENDED)))
def test_each_markup_that_is_exchanged_is_still_written(place):
    package, file, written = WRITTEN_BY[place]
    guard = f"MENDED[{list(accessible_pages.MENDED)[place]!r}] in accessible_pages"
    assert written in source(package, file), CAN_GO + guard
    assert len(WRITTEN_BY) == len(accessible_pages.MENDED)


@pytest.mark.parametrize(
    "package, file, written",
    [
        (
            "pydata_sphinx_theme",
            f"{THEME}/static/webpack-macros.html",
            '<link rel="preload" as="font" type="font/woff2" crossorigin ',
        ),
        ("sphinx_thebe", "__init__.py", 'app.add_js_file(filename="sphinx-thebe.js"'),
        ("sphinx_thebe", "__init__.py", "const THEBE_JS_URL = "),
    ],
)
def test_each_script_and_preload_that_is_taken_out_is_still_written(package, file, written):
    assert written in source(package, file), CAN_GO + "a part of offline_site.UNWANTED"
    assert offline_site.UNWANTED.search('<link rel="preload" as="font" crossorigin href="a" />')
