"""What two runs leave behind after their shared prefix, and how the suffixes are aligned."""

import pytest
import torch

from tests.tiny import bridge, sequences
from workbench.models.anatomy import anatomy
from workbench.models.capture import capture
from workbench.patching.sites import site
from workbench.patching.suffix import suffix

END = "blocks.2.hook_resid_post"


def made(base, source, hook="z", family="llama", **options):
    model = bridge(family)
    parts = anatomy(model)
    return suffix(model, parts, base, source, site(hook, None, parts), **options)


def full(tokens, name, family="llama"):
    return capture(bridge(family), [tokens], {name: lambda t: t})[name]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "mistral", "gemma2"])
def test_only_the_suffix_is_kept_and_equals_the_whole_run(family):
    (base,), (source,) = sequences((9,), prefix=5), sequences((9,), seed=2, prefix=5)
    found = made(base, source, family=family)
    assert found.length == 4 and found.partner.all()
    name = "blocks.1.attn.hook_z"
    for mine, tokens, wanted in (
        (found.base[1], base, name),
        (found.source[1], source, name),
        (found.resid[-1][None], base, END),
        (found.resid[1][None], base, "blocks.1.hook_resid_pre"),
        (found.source_end[None], source, END),
    ):
        torch.testing.assert_close(mine, full(tokens, wanted, family)[:, 5:], rtol=0, atol=2e-7)


@pytest.mark.parametrize("reuses", [True, False])
def test_unequal_suffixes_are_aligned_from_the_right_with_or_without_reuse(reuses, monkeypatch):
    monkeypatch.setattr("workbench.patching.suffix.supports_prefix", lambda model: reuses)
    (base,), (source,) = sequences((9,), prefix=4), sequences((7,), seed=2, prefix=4)
    found = made(base, source)
    assert found.length == (5 if reuses else 9) and (found.past is not None) == reuses
    assert found.partner.tolist() == [False] * (found.length - 3) + [True] * 3
    z = "blocks.1.attn.hook_z"
    torch.testing.assert_close(found.source[1][:, -3:], full(source, z)[:, 4:], rtol=0, atol=2e-7)
    kept = found.source[1][:, :-3]
    torch.testing.assert_close(kept, full(base, z)[:, -found.length : -3], rtol=0, atol=2e-7)


def test_a_longer_source_loses_its_beginning():
    (base,), (source,) = sequences((6,), prefix=4), sequences((9,), seed=2, prefix=4)
    found = made(base, source)
    assert found.length == 2 and found.partner.all()
    wanted = full(source, "blocks.0.attn.hook_z")[:, -2:]
    torch.testing.assert_close(found.source[0], wanted, rtol=0, atol=2e-7)


def test_equal_prompts_leave_what_is_read():
    (base,) = sequences((6,))
    assert made(base, base).length == 1
    assert made(base, base, n_read=3).length == 3
    assert made(base[:3], base, n_read=2).length == 2


def test_a_run_from_the_suffix_equals_the_whole_run():
    (base,), (source,) = sequences((9,), prefix=5), sequences((9,), seed=2, prefix=5)
    found = made(base, source)
    for layer in (0, 1, 2, 3):
        end = found.final_stream(layer, found.resid[layer][None].expand(3, -1, -1), {})
        torch.testing.assert_close(end, found.resid[-1][None].expand(3, -1, -1), rtol=0, atol=1e-12)


def test_patterns_are_taken_by_query():
    (base,), (source,) = sequences((7,), prefix=3), sequences((7,), seed=2, prefix=3)
    found = made(base, source, "pattern")
    assert found.source[0].shape == (1, 4, 4, 7)
    wanted = full(source, "blocks.0.attn.hook_pattern")[:, :, 3:]
    torch.testing.assert_close(found.source[0], wanted, rtol=0, atol=2e-7)
