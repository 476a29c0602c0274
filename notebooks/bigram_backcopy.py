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
# # Watch a sink being born
#
# Large language models spend much of their attention on their first token, whose value vector is almost zero. Why? Here a
# toy language makes the same thing happen in a one-layer transformer within a minute on a CPU. Before each result there is
# a question: answer it before you run the cell.

# %%
from typing import Any

import torch

import workbench as wb

toys = wb.bigram_backcopy
torch.manual_seed(0)

# %% [markdown]
# ## 1. The language
#
# Characters follow each other as in Shakespeare, but after a *trigger* (the three most frequent characters: space, e and t)
# the character in front of the trigger is repeated.

# %%
task = toys.Task()
print(task)
print("".join(task.decode(task.sample(1, 60, seed=1)[0])[1:]))

# %% [markdown]
# An ideal model therefore needs two skills: the bigram table, which is a function of the last character alone, and copying,
# which needs attention, but only at triggers.
#
# **Predict:** where should the attention head look when the last character is *not* a trigger?
#
# ## 2. Train, and look

# %%
shape = toys.architecture("1xTF", d_model=48, n_ctx=32)
settings: dict[str, Any] = {"length": 32, "steps": 900, "progress": False}
trained = toys.train(task, shape, seeds=(0,), **settings)
record = trained.record.isel(seed=0, layer=0, head=0)
print(record[["backcopy", "bigram_excess", "sink", "value_bos", "value_others"]].isel(step=[0, -10, -1]).to_dataframe())

# %%
line = toys.look_at(trained.models[0], task, ["<s>", "v", " ", "v", "n", "a", "u", " ", "u", "h"])
wb.plot.attention(line, layer=0)

# %% [markdown]
# Two rows copy: the triggers look at the token before them. The other rows have nothing to fetch, and softmax cannot be
# empty: their attention goes to `<s>`, whose value has become small. That is a sink with a drained value.
#
# **Predict:** in which order did the bigram, copying, the sink and the drain appear?

# %%
print(toys.dynamics(trained.record)["event_step"].to_pandas())

# %% [markdown]
# ## 3. Is the head really needed?
#
# **Predict:** which of the two losses changes when attention is switched off?

# %%
cuts = toys.interventions(trained)
print(cuts[["backcopy", "bigram_excess"]].isel(seed=0).to_dataframe())

# %% [markdown]
# ## 4. Change one thing
#
# ReLU attention may be empty. **Predict**, as a number between 0 and 1: how much attention does `<s>` get from queries that
# are no trigger? Then run, change a line, predict again: `"sgd"` for the optimizer, `"softmax"` for the attention, 5 or
# `["e", "t"]` for the triggers.

# %%
optimizer = "adamw"
attention = "relu"
triggers = 3
prediction = 0.5

# %%
settings["steps"] = 500
changed_task = toys.Task(triggers=triggers)
changed = toys.architecture("1xTF", attention=attention, d_model=48, n_ctx=32)
other = toys.train(changed_task, changed, optimizer=optimizer, seeds=(0,), **settings)
last = other.record.isel(step=-1, seed=0, layer=0, head=0)
found = {name: round(float(last[name]), 3) for name in ("backcopy", "sink", "value_bos", "value_others")}
print(f"predicted {prediction}, found {found['sink']}: {found}")
if (optimizer, attention, triggers) == ("adamw", "relu", 3):
    assert found["sink"] < 0.1

# %% [markdown]
# A language without triggers, `toys.Task(kind="markov")`, has nothing to switch off. What do you predict there?

# %% [markdown]
# ## 5. The paper's size
#
# Runs of the paper's size come measured with the package. A sink needs only one layer; a *peak* of the residual stream
# at `<s>` needs layers in front of the sink head, and AdamW. **Predict:** which of the three lines grows?

# %%
names = {"AdamW": "three-layer", "SGD": "three-layer-sgd", "ReLU attention": "three-layer-relu"}
curves = {label: toys.measured(name, "paper").record["residual_bos"].isel(layer=0) for label, name in names.items()}
wb.plot.steps(curves, label="Residual norm of &lt;s&gt; after layer 0")

# %% [markdown]
# One seed is one draw. In the published run `<s>` gets 0.81 of the attention. **Predict:** what do other first weights give?
# The last curve begins with the very weights of the published run.

# %%
sinks = toys.measured("one-layer", "paper").record["sink"].isel(layer=0, head=0)
curves = {f"seed {seed}": sinks.sel(seed=seed, drop=True) for seed in sinks["seed"].values}
same = toys.measured("one-layer-authors", "paper").record["sink"].isel(layer=0, head=0, seed=0, drop=True)
wb.plot.steps(curves | {"the authors' weights": same.sel(step=slice(0, 10_000))}, label="Attention on &lt;s&gt;")

# %% [markdown]
# ## 6. The theory
#
# In a simplified model gradient flow predicts how sink logits grow when values stand still (half the logarithm of time),
# and that they all meet in one value once values may drain.

# %%
given = toys.problem(task)
print(toys.flow(given, "alpha")["alpha"].sel(time=[1e6, 1e8], method="nearest").to_pandas())
print(toys.flow(given, "both")["alpha"].isel(time=-1).to_pandas())

# %% [markdown]
# ## Exercises
#
# 1. Give the model small embeddings, `toys.architecture(embedding_std=0.1)`. What happens to the sink, and does copying
#    suffer?
# 2. Take the BOS away, `toys.Task(bos=0)`. Which tokens become sinks? (`record["attention_to"]`) Why those?
# 3. `toys.without(model, [(0, "mlp")])` is a context manager. What does the model predict inside it?
