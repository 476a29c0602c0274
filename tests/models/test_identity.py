"""A model's fingerprint changes with its weights, and damaged weights are named."""

import pytest
import torch

from tests.tiny import tiny
from workbench.errors import InputError
from workbench.models.identity import fingerprint, refuse_nan_weights
from workbench.models.load import load


def test_same_weights_have_the_same_fingerprint():
    assert fingerprint(load(tiny("llama"))) == fingerprint(load(tiny("llama")))


def test_other_weights_have_another():
    model = load(tiny("llama"))
    before = fingerprint(model)
    assert before != fingerprint(load(tiny("llama", seed=1)))
    for parameter in model.parameters():
        parameter.data += 0.01
    assert fingerprint(model) != before


def test_every_parameter_counts():
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    seen = {fingerprint(module)}
    for parameter in module.parameters():
        parameter.data.flatten()[0] += 1
        seen.add(fingerprint(module))
    assert len(seen) == 5


def test_shapes_count():
    assert fingerprint(torch.nn.Linear(4, 1)) != fingerprint(torch.nn.Linear(1, 4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_damaged_parameters_are_counted_and_the_first_is_named(bad):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    refuse_nan_weights(module)
    module[0].bias.data[1] = module[1].weight.data[0, 0] = bad
    with pytest.raises(InputError, match=r"2 of the model's parameters .*the first is '0\.bias'"):
        refuse_nan_weights(module)


def test_whole_numbers_cannot_be_damaged():
    module = torch.nn.Module()
    module.count = torch.nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
    refuse_nan_weights(module)
