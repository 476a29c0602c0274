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
# # Where does attention go when there is nothing to look at?
#
# Most heads of a language model spend most of their time on one token that means nothing, often the first. It looks like a
# bug and is a way to do nothing: softmax must put its weight somewhere. We find that token in a small chat model, see the
# three marks it bears, ask which layers make it so, and take the remedy's price.
#
# The phenomena are those of Guo et al. 2024. Everything runs on a CPU in about a minute.

# %%
import numpy as np

import workbench as wb
from workbench import extreme

model = wb.load("organism-gqa")
text = "Summer is warm. Winter is cold."

# %% [markdown]
# ## 1. One pass, three marks
#
# *Sink*: heads attend to it. *Drain*: its value, pushed through the head's slice of W_O, is short, so attending to it adds
# next to nothing. *Peak*: the residual stream is long at it. A token is extreme in a layer when it bears all three there.

# %%
found = wb.extreme_tokens(model, text, progress=False)
for i, token in enumerate(found["token"].values[0]):
    marks = [name for name in ("sink", "drained", "peaked", "extreme") if bool(found[name][0, :, i].any())]
    print(f"{i:2d} {token!r:12} {' '.join(marks)}")

# %%
wb.plot.sink_heatmap(found, position=0)

# %% [markdown]
# Values through W_O, over all layers and heads. The boxes of the first token lie near the floor.

# %%
wb.plot.value_norms(found)

# %%
wb.plot.residual_norms(found)

# %% [markdown]
# ## 2. Who makes the peak?
#
# Zero the attention or the MLP of one layer and look at the first token's stream again. Two early MLPs make it, one after
# the other; without either it collapses. The second costs the loss little: the peak is no knowledge, it is plumbing.

# %%
from workbench.prompts.samples import SAMPLES

texts = [text for some in SAMPLES.values() for text in some]
sources = extreme.peak_sources(model, texts, max_tokens=96, progress=False)
print(extreme.peak_verdict(sources))
wb.plot.peak_sources(sources)

# %% [markdown]
# ## 3. Take the sink away
#
# Interventions are context managers on hook points, and every detector sees what they do. What happens to the loss when no
# head may look at the first token, and when its value is set to exactly nothing?

# %%
prices = extreme.compare_interventions(
    model,
    texts,
    {
        "first token hidden": lambda model: extreme.mask_key(model, key=0),
        "its value zeroed": lambda model: extreme.clamp_values(model, key=0, scale=0.0),
    },
    max_tokens=96,
    progress=False,
)
for name in prices["intervention"].values:
    print(f"{name!s:20} loss {float(prices['loss_change'].sel(intervention=name).mean()):+.3f}")
hidden = float(prices["loss_change"].sel(intervention="first token hidden").mean())
zeroed = float(prices["loss_change"].sel(intervention="its value zeroed").mean())
assert hidden > 3 * abs(zeroed)

# %% [markdown]
# Hiding it costs several times as much as emptying it: heads need the *place* to rest more than what stands there.
#
# ## 4. It was born in training
#
# The same recipe, its weights kept on the way. Attention, drain and peak appear together.

# %%
history = wb.open_result(wb.embedded("organism-gqa").folder() / "dynamics.nc")
wb.plot.training_panels(history)

# %%
layer = int(history["sink_weight"].isel(step=-1).sel(token="first").mean("head").argmax("layer"))
curve = history["sink_weight"].isel(layer=layer).sel(token="first").mean("head")
print("attention on the first token:", np.round(curve.values[[0, 10, 16, 20, -1]], 2))

# %% [markdown]
# ## Exercises
#
# 1. Put another token first: `extreme.without_first` and `extreme.swap_token`. Does the sink move to the new first token, or
#    does it need BOS itself? What happens to the peak?
# 2. `extreme.sliding_window(model, size=16)` forgets the first token; `keep_first=1` keeps it. Compare the losses on a long
#    text. This is why streaming inference keeps "attention sinks".
# 3. `wb.active_dormant(model, {"prose": ..., "code": ...})` asks which heads rest on prose and work on code. How many texts
#    does it take before it decides anything?
