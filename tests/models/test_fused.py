"""Attention that is never materialised against whole patterns in float64, of every kind, in PyTorch and in kernels."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from einops import repeat

from tests.tiny import bridge, sequences
from workbench.extreme import extreme_tokens
from workbench.inactive_heads import head_scores
from workbench.models import fused
from workbench.models.attention import fuses

KINDS = {
    "causal": {},
    "grouped heads": {"kv_heads": 2},
    "one key head, learned sinks": {"kv_heads": 1, "sinks": True},
    "window": {"window": 37, "kv_heads": 2},
    "window of itself": {"window": 1},
    "window longer than the text": {"window": 500},
    "soft cap": {"softcap": 3.0},
    "all of them": {"window": 20, "softcap": 3.0, "sinks": True, "kv_heads": 2},
    "wide keys": {"width": 24, "value_width": 16},
    "heads of 80": {"width": 80},
}
IN_PYTORCH = ("causal", "grouped heads", "one key head, learned sinks", "window longer than the text", "heads of 80")
LENGTHS = torch.tensor([150, 97])


def inputs(kind, dtype):
    """Queries, keys, values, and what a model would give beside them."""
    torch.manual_seed(0)
    width, kv_heads = kind.get("width", 16), kind.get("kv_heads", 4)
    shapes = ((4, width), (kv_heads, width), (kv_heads, kind.get("value_width", width)))
    vectors = [torch.randn(2, n, 150, size, dtype=torch.float64).to(dtype) for n, size in shapes]
    sinks = torch.randn(4, dtype=torch.float64).to(dtype) if kind.get("sinks") else None
    given = {"scaling": 0.4, "softcap": kind.get("softcap"), "sliding_window": kind.get("window"), "s_aux": sinks}
    return vectors, given


def materialised(vectors, given, weights, counted):
    """The same from a whole pattern in float64."""
    q, k, v = (x.double() for x in vectors)
    k, v = (repeat(x, "batch kv pos d -> batch (kv group) pos d", group=4 // x.shape[1]) for x in (k, v))
    logits = q @ k.transpose(-1, -2) * given["scaling"]
    if given["softcap"]:
        logits = given["softcap"] * torch.tanh(logits / given["softcap"])
    visible = torch.ones(150, 150, dtype=torch.bool).tril()
    visible = visible.triu(1 - (given["sliding_window"] or 150))
    row = logits.masked_fill(~visible, -torch.inf)
    if given["s_aux"] is not None:
        row = torch.cat([row, given["s_aux"].double()[None, :, None, None].expand(2, 4, 150, 1)], -1)
    pattern = row.softmax(-1)[..., :150]
    others = logits.masked_fill(~visible.tril(-1), 0)
    seen = pattern * counted[:, None, :, None]
    return {
        "z": (pattern @ v).transpose(1, 2),
        "received": seen.sum(-2),
        "logits": (others * weights[:, None, :, None]).sum(-2),
        "entropy": torch.special.entr(seen).sum((-1, -2)),
        "other_logits": others.sum(-1),
        "visible": visible.sum(-1).double(),
        "behind": weights @ visible.double(),
    }


def differences(kind, dtype):
    """The largest differences, over the largest value; None where attention is not fused."""
    vectors, given = inputs(KINDS[kind], dtype)
    found = fused.attend(*vectors, 0, given)
    if found is None:
        return None
    z, seen = found
    counted = torch.arange(150) < LENGTHS[:, None]
    weights = torch.rand(2, 150, dtype=torch.float64) * counted
    own = weights.to(seen.logsumexp.dtype)
    ours = {"z": z} | seen.over_queries(counted, own, entropy=True)._asdict()
    ours |= {"other_logits": seen.other_logits(), "visible": seen.visible(), "behind": seen.behind(own)}
    wanted = materialised(vectors, given, own.double(), counted)
    return {
        name: float((x - wanted[name]).abs().max() / wanted[name].abs().max().clamp_min(1)) for name, x in ours.items()
    }


@pytest.mark.parametrize("kind", IN_PYTORCH)
def test_sums_over_queries_are_those_of_the_materialised_pattern(kind):
    found = differences(kind, torch.float64)
    assert max(found.values()) < 1e-12, found


@pytest.mark.parametrize("kind", ["window", "soft cap", "wide keys"])
def test_other_kinds_are_left_to_the_chunks_where_there_is_no_kernel(kind):
    assert differences(kind, torch.float64) is None


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2"])
def test_detectors_give_the_same_with_fused_attention_as_in_chunks(family):
    same_with_fused_attention(family, torch.float64, 1e-6)


def test_learned_sinks_take_the_same_share_with_fused_attention():
    same_with_fused_attention("gpt_oss", torch.float32, 1e-4)


def same_with_fused_attention(family, dtype, limit):
    model, texts = bridge(family, dtype), sequences((14, 9, 1))
    assert fuses(model)
    scores, in_chunks = (head_scores(model, texts, batch_size=3, chunk=chunk) for chunk in ("auto", 4))
    assert float(abs(scores - in_chunks).max()) < limit
    found, in_chunks = (
        extreme_tokens(model, texts[:2], batch_size=2, chunk=chunk, progress=False) for chunk in ("auto", 4)
    )
    for name in in_chunks.data_vars:
        assert in_chunks[name].dtype == found[name].dtype
        difference = abs(in_chunks[name].astype(float) - found[name].astype(float))
        assert (in_chunks[name].isnull() == found[name].isnull()).all(), name
        assert float((difference / (1 + abs(in_chunks[name].astype(float)))).max()) < limit, name


def in_the_interpreter():
    """Run by another process, which sets Triton's interpreter before it imports anything."""
    for kind in KINDS:
        found = differences(kind, torch.float32)
        assert max(found.values()) < 1e-5, (kind, found)
    for family in ("mistral", "gemma2", "gpt_oss"):
        same_with_fused_attention(family, torch.float32, 1e-4)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_are_exact_in_triton_s_interpreter():
    command = [sys.executable, "-c", "from tests.models.test_fused import in_the_interpreter as run; run()"]
    ran = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
