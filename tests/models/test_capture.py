"""Only what was named is kept, as it was reduced, from right-padded batches."""

import pytest
import torch

from tests.tiny import bridge, sequences
from workbench.errors import InputError
from workbench.models.capture import at, capture
from workbench.models.devices import device_of

NAME = "blocks.1.hook_resid_post"


def test_each_sequence_is_seen_as_if_alone():
    model, rows = bridge("qwen2"), sequences((9, 4, 7))
    last = at(torch.arange(3), torch.tensor([len(row) - 1 for row in rows]))
    together = capture(model, rows, {NAME: last})[NAME]
    assert together.shape == (3, 32)
    for i, row in enumerate(rows):
        alone = capture(model, [row], {NAME: lambda t: t[:, -1]})[NAME]
        torch.testing.assert_close(together[i], alone[0], rtol=0, atol=1e-12)


def test_what_stands_before_need_not_be_run_again():
    from workbench.models.forward import copies, prefix_cache

    model, (row,) = bridge("mistral"), sequences((14,))
    past = prefix_cache(model, [row[:9]])
    for _ in range(2):
        continued = capture(model, [row[9:]], {NAME: lambda t: t}, copies(past, 1))[NAME]
        whole = capture(model, [row], {NAME: lambda t: t[:, 9:]})[NAME]
        torch.testing.assert_close(continued, whole, rtol=0, atol=1e-12)


def test_nothing_else_is_kept():
    wanted = {NAME: lambda t: t.norm(dim=-1), "blocks.0.attn.hook_pattern": lambda t: t.sum(-1)}
    kept = capture(bridge("llama"), sequences((6,)), wanted)
    assert set(kept) == set(wanted)
    assert kept[NAME].shape == (1, 6)
    torch.testing.assert_close(kept["blocks.0.attn.hook_pattern"], torch.ones(1, 4, 6, dtype=torch.float64))


def test_kept_values_are_copies():
    model, held = bridge("llama"), []
    kept = capture(model, sequences((6,)), {NAME: lambda t: (held.append(t), t)[1]})[NAME]
    held[0].zero_()
    assert kept.abs().sum() > 0


def test_several_positions_of_each_row():
    activation = torch.arange(24).reshape(2, 4, 3).float()
    taken = at(torch.tensor([0, 0, 1]), torch.tensor([0, 3, 1]))(activation)
    assert torch.equal(taken, torch.stack([activation[0, 0], activation[0, 3], activation[1, 1]]))


def test_unknown_hooks_are_refused():
    with pytest.raises(InputError, match=r"did you mean 'blocks\.1\.hook_resid_post'"):
        capture(bridge("llama"), sequences((6,)), {"blocks.1.hook_residpost": lambda t: t})


def test_tokens_go_where_the_model_is():
    assert device_of(bridge("llama")) == torch.device("cpu")
