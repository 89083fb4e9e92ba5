"""`copying`: the copy has the same numbers in float64 and shares no tensor."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from flatlib.derivatives.copying import float64_copy


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4)
        self.last.weight = nn.Parameter(self.last.weight.half())
        self.table = torch.tensor([1.0, 2.0])
        self.count = torch.tensor([3])
        self.phase = torch.tensor([0.6 + 0.8j])
        self.register_buffer("phases", torch.tensor([1j, 0.6 - 0.8j]).conj())
        self.doubled = 2 * self.first.weight


def storages(net: nn.Module) -> set[int]:
    held = [value for module in net.modules() for value in vars(module).values()]
    tensors = [*net.parameters(), *net.buffers(), *(v for v in held if torch.is_tensor(v))]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def test_every_number_is_there_in_float64_and_none_is_shared():
    net = Net()
    twin, _ = float64_copy(net)
    assert not storages(net) & storages(twin)
    for name, tensor in net.state_dict().items():
        mine = twin.state_dict()[name]
        if tensor.is_floating_point():
            assert mine.dtype == torch.float64 and torch.equal(mine, tensor.double()), name
        elif tensor.is_complex():
            assert mine.dtype == torch.complex128 and torch.equal(mine, tensor.to(mine.dtype))
        else:
            assert mine.dtype == tensor.dtype and torch.equal(mine, tensor), name
    assert twin.phase.dtype == torch.complex128
    assert twin.table.dtype == torch.float64 and twin.count.dtype == torch.int64
    assert net.last.weight.dtype == torch.float16


def test_what_was_computed_before_is_a_leaf_under_its_name():
    net = Net()
    twin, computed = float64_copy(net)
    assert list(computed) == ["doubled"]
    assert computed["doubled"] is twin.doubled and twin.doubled.is_leaf
    assert torch.equal(twin.doubled, 2 * net.first.weight.double())


def test_tied_weights_stay_tied():
    net = Net()
    net.more = net.first
    twin, _ = float64_copy(net)
    assert twin.more.weight is twin.first.weight


def test_a_reparametrized_weight_is_computed_anew_in_float64():
    layer = parametrizations.weight_norm(nn.Linear(3, 2))
    twin, _ = float64_copy(layer)
    lengths = twin.parametrizations.weight.original0.flatten()
    assert twin.weight.dtype == lengths.dtype == torch.float64
    torch.testing.assert_close(twin.weight.norm(dim=1), lengths, rtol=1e-14, atol=0)


def test_what_cannot_be_copied_or_stays_shared_is_refused():
    class Fixed(nn.Linear):
        def __deepcopy__(self, memo):
            return self

    with pytest.raises(ValueError, match="still shares 'weight' with it"):
        float64_copy(Fixed(2, 2))

    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo):
            raise TypeError("not this one")

    with pytest.raises(ValueError, match="not this one"):
        float64_copy(nn.Sequential(Stubborn(2, 2)))
