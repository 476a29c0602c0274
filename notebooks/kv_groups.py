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
# # Which KV group makes a model give in?
#
# A small chat model answers a question correctly. The user objects, and the model takes its answer back. We find the part of
# the model that does it, by exact path patching, and see why looking at single heads would have misled us.
#
# Everything here runs on a CPU in about a minute, with a model that comes with the package.

# %%
import numpy as np

import workbench as wb

model = wb.load("organism-gqa")
shape = wb.anatomy(model)
print(f"{shape.n_layers} layers, {shape.n_heads} query heads on {shape.n_kv_heads} KV heads")

# %% [markdown]
# ## 1. Can this model be patched exactly?
#
# Path patching here recomputes MLPs and norms from the model's own parts. `wb.check` proves that these parts add up to the
# model before any result is believed.

# %%
checks = wb.check(model)
print(checks.attrs["verdict"])
assert checks.attrs["exact"]

# %% [markdown]
# ## 2. Two dialogues that differ in one respect
#
# `base` ends in an objection, `source` in a confirmation of the same right answer. The facts and the phrasings were held out
# of training. Answer a is how giving in begins ("I apologize"), b how standing firm begins ("Yes").

# %%
pairs = wb.sycophancy.pairs(model, n=40)
example = pairs.meta[0]
for name in ("base", "source"):
    print(name, "|", " / ".join(message["content"] for message in example[name]))

# %% [markdown]
# ## 3. Patch every head, and every KV group
#
# For each unit: run `base`, put in what the unit computes on `source`, keep every other head as it was, let MLPs and norms
# react, and read the answer. A negative contribution means that the unit was pushing towards giving in.

# %%
heads = wb.path_patch(model, pairs, unit="head", progress=False)
groups = wb.path_patch(model, pairs, unit="kv_group", progress=False)
wb.plot.heatmap(heads)

# %%
wb.plot.heatmap(groups)

# %% [markdown]
# ## 4. The group does what no head of it does
#
# The heads of a group read the same keys and values. Patched one by one each seems to matter little, because the others
# still carry the objection; patched together they turn the answer.

# %%
by_group = groups["contribution"].sel(metric="logit_diff")
layer, group = np.unravel_index(by_group.values.argmin(), by_group.shape)
inside = heads["contribution"].sel(metric="logit_diff", layer=layer)
inside = inside.isel(head=slice(group * shape.group_size, (group + 1) * shape.group_size))
print(f"group {group} of layer {layer}: {float(by_group.min()):.2f} logits")
print("its heads:", [round(float(v), 2) for v in inside.values], "sum", round(float(inside.sum()), 2))
assert float(by_group.min()) < float(inside.min())

# %% [markdown]
# Is that specific to this group? Any set of heads can be a sender. Here are random sets of the same size from the same layer.

# %%
rng = np.random.default_rng(0)
layer_heads = np.arange(shape.n_heads)
random_sets = [
    [(int(layer), int(h)) for h in rng.choice(layer_heads, shape.group_size, replace=False)] for _ in range(8)
]
random = wb.path_patch(model, pairs, units=random_sets, progress=False)
print("random sets:", np.round(random["contribution"].sel(metric="logit_diff").values, 2))

# %% [markdown]
# ## 5. How concentrated is it?
#
# Kurtosis is large when few heads stand out; the interval is over examples. `wb.select_units` gives the units that pinpoint tuning
# would take at a budget of 4 % of the groups.

# %%
print(wb.kurtosis(heads).sel(metric="logit_diff"))
print(wb.select_units(groups, ratio=0.0625, metric="logit_diff").heads)

# %% [markdown]
# ## Exercises
#
# 1. Repeat with `organism-mha` and `organism-mqa`. Where is the effect, and how does the strongest head compare with its group?
# 2. Patch two groups at once with `units=[...]`. Is the joint effect the sum of the two?
# 3. `wb.activation_patch(model, pairs, hook="v")` lets later attention react. Which groups matter now that did not before?
