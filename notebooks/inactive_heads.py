# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which heads do nothing?
#
# A head that puts next to nothing into the residual stream can be switched off without anybody noticing. Is that so? We
# score every head of a small model, switch off the quietest tenth while the model runs, and count what it still gets right.
#
# Everything here runs on a CPU in about two minutes, with a model that comes with the package.

# %%
from typing import Any

import numpy as np
import torch

import workbench as wb
from workbench import evaluation, inactive_heads
from workbench.prompts.samples import SAMPLES

model = wb.load("organism-gqa")
shape = wb.anatomy(model)
texts = [
    "The lamp on the landing had gone out again, and Edith felt her way down with one hand on the wall.",
    "We had been eleven days out of port when the wind left us, and the men grew quiet and looked at the water.",
    "def add(a, b): return a + b",
    "Copper is a soft metal with a reddish colour; it conducts heat and electricity very well.",
]

# %% [markdown]
# ## 1. What is a head doing nothing?
#
# Two answers. *It looks at nothing*: all its attention rests on the first token (AWFT). *It says nothing*: its output z is
# short (AHON). To compare layers, whose outputs grow along the model, divide by the layer's mean (LN).

# %%
scores = wb.head_scores(model, texts, ["AWFT", "AHON", "AHON_LN"], progress=False)
print(scores.sel(score="AHON").mean(["sequence", "head"]).round(decimals=2).values, "mean output norm by layer")
np.testing.assert_allclose(scores.sel(score="AHON_LN").mean("head"), 1, atol=1e-5)

# %% [markdown]
# A score is a number per text, layer and head: the same head can sleep on one text and work on another.

# %%
quiet = scores.sel(score="AHON_LN")
layer, head = divmod(int(quiet.mean("sequence").values.argmin()), shape.n_heads)
print(f"quietest head: layer {layer}, head {head}:", quiet.sel(layer=layer, head=head).round(2).values)

# %% [markdown]
# ## 2. From scores to heads
#
# A threshold that selects a tenth of all (text, layer, head). Do the two ideas select the same heads?

# %%
tau = wb.inactive_head_thresholds(scores, [0.1])
selected = inactive_heads.inactive(scores, tau["tau"].isel(threshold=0))
print(selected.mean(["sequence", "layer", "head"]).to_series())
shared = inactive_heads.overlap(scores, 0.1)["iou"].sel(score="AWFT", other="AHON_LN")
print(f"AWFT and AHON (LN) share {float(shared):.0%} of the heads that either selects")
assert float(shared) < 0.7

# %%
often = inactive_heads.frequency(scores, tau["tau"].isel(threshold=0)).sel(score="AHON_LN")
wb.plot.frequency_map(often, shape.group_size, title="Share of texts on which a head is inactive, AHON (LN)")

# %% [markdown]
# ## 3. Switching a tenth of them off
#
# `zero_heads` decides layer by layer while the model runs, on the stream that the zeroed heads below leave.


# %%
def loss():
    """Mean next-token loss over the texts."""
    found = []
    for text in texts:
        tokens = model.tokenizer(text, return_tensors="pt")["input_ids"]
        found.append(torch.nn.functional.cross_entropy(model(tokens)[0, :-1], tokens[0, 1:]))
    return float(torch.stack(found).mean())


plain = loss()
with wb.zero_heads(model, score="AHON_LN", tau=tau["tau"].sel(score="AHON_LN").item()) as zeroed:
    without_quiet = loss()
without_some = []
for seed in range(5):
    with wb.zero_heads(model, random=zeroed.share, seed=seed):
        without_some.append(loss())
print(f"{zeroed.share:.0%} of the heads off: loss {plain:.3f} becomes {without_quiet:.3f}")
print(
    f"as many at random, five times: {np.mean(without_some):.3f} ({min(without_some):.3f} to {max(without_some):.3f})"
)
assert loss() == plain, "nothing stays on the model"
assert without_quiet < np.mean(without_some)

# %% [markdown]
# ## 4. What does it cost?
#
# The model's own questions, answered with more and more heads off. The curve is drawn over the share that was really
# zeroed, since zeroing changes what later layers are judged on.

# %%
questions = evaluation.own_questions(model, 24)
curves = wb.ablation_curve(model, questions, ["AHON_LN", "AHON"], (0.1, 0.3), progress=False)
print(curves["accuracy"].round(2).to_series().unstack())
wb.plot.accuracy_curves(curves, scores=["AHON_LN", "AHON", "Random"], title="Accuracy without inactive heads")

# %% [markdown]
# Without the division by the layer's mean the same score is a disaster: early layers have short outputs throughout, and
# AHON takes them away whole.

# %%
at: dict[str, Any] = {"threshold": 0.3}
assert float(curves["accuracy"].sel(score="AHON_LN", **at)) > float(curves["accuracy"].sel(score="AHON", **at))
print(curves["layer_share"].sel(score=["AHON", "AHON_LN"], **at).round(2).values)

# %% [markdown]
# ## 5. Can your score do better?
#
# A score is a function of what one layer did. This one asks for the loudest token instead of the mean.


# %%
@inactive_heads.score("LOUDEST_LN", inactive="below", title="largest head output norm, over its layer's mean")
def loudest(layer):
    peak = layer.z_norm.masked_fill(~layer.real[..., None], 0).amax(1)
    return peak / peak.mean(-1, keepdim=True)


mine = wb.head_scores(model, texts, ["AHON_LN", loudest], progress=False)
print(inactive_heads.overlap(mine, 0.1)["iou"].round(2).values)

# %% [markdown]
# ## 6. When do heads fall asleep?
#
# The model's training was repeated with its weights kept at 25 steps. Under the threshold that selects a tenth of all
# (text, head) at the end, nothing sleeps at first: heads become quiet late, one after the other, and few wake up again.

# %%
lives = wb.open_result(wb.embedded("organism-gqa").folder() / "dormancy.nc")
print(lives["share_inactive"].sel(step=[0, 58, 441, 1216, 3356]).round(3).values)
assert float(lives["share_inactive"].sel(step=58)) < 0.01
wb.plot.training_curves(lives, title="Dormant heads over the training of organism-gqa")

# %% [markdown]
# ## 7. Is a threshold good for other texts?
#
# Fitted on half of the texts of one kind, a threshold selects its tenth on the other half too; on another kind it may not.

# %%
kinds = {
    name: wb.head_scores(model, list(some), ["AWFT", "AHON_LN"], max_tokens=48, progress=False)
    for name, some in SAMPLES.items()
}
print(inactive_heads.transfer(kinds)["selected"].isel(threshold=0).round(2).sel(score="AHON_LN").to_pandas())
print(inactive_heads.distances(kinds)["distance"].sel(score="AHON_LN").round(3).to_pandas())

# %% [markdown]
# ## Exercises
#
# 1. Draw `ablation_curve` for `"LOUDEST_LN"` beside AHON_LN, with 200 questions. Do the intervals of `free_share` overlap?
# 2. Repeat with `organism-mqa`. Why is every FTVVN_LN exactly 1 there?
# 3. `inactive_heads.by_domain(model, {"prose": …, "code": …})`: which heads are active only for code?
# 4. Fit thresholds on one half of the questions, `ablation_curve(model, questions[1::2], fit=questions[::2])`, and compare
#    with `fit=None` by `inactive_heads.compare_curves`. Does accuracy change by more than its interval?
# 5. `workbench organism train --kv-heads 2 --small --keep 12 --out RUN`, then `workbench figure inactive-heads/training
#    --models RUN-checkpoints`: when do the heads of a smaller model fall asleep?
#
# Check for exercise 2: the mean over one KV head is that head's own norm.

# %%
single = wb.load("organism-mqa")
assert bool((wb.head_scores(single, texts, "FTVVN_LN", progress=False) == 1).all())
