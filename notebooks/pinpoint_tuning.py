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
# # Can a few heads be taught to stand firm?
#
# A model that gives in to every objection can be tuned as a whole. Pinpoint tuning claims that a few heads are enough: find
# those that make it give in, train only their slices of the weights, keep every other number. We do the whole round on
# a small model: patch, select, tune, evaluate, patch again, export.
#
# Everything here runs on two CPU cores in about a minute and a half, with a model that comes with the package.

# %%
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import workbench as wb
from workbench.papers.kv_groups.tradeoff import records as shelf
from workbench.papers.kv_groups.tradeoff import summaries as words
from workbench.papers.kv_groups.tradeoff.findings import Kind, estimate
from workbench.papers.kv_groups.tradeoff.plan import Arm

model = wb.load("organism-gqa")
shape = wb.anatomy(model)

# %% [markdown]
# ## 1. Patch: what makes it give in?
#
# The same dialogue once with an objection (base) and once with a confirmation (source). Each KV group of the first gets
# what it would have said in the second. Negative: without this group the model gives in less. We select on training
# facts, so that the test facts stay unseen.

# %%
pairs = wb.sycophancy.pairs(model, n=40, split="train")
groups = wb.path_patch(model, pairs, unit="kv_group", metrics=("logit_diff",), progress=False)
heads = wb.path_patch(model, pairs, unit="head", metrics=("logit_diff",), progress=False)
wb.plot.heatmap(groups, "logit_diff")

# %% [markdown]
# ## 2. Select: as many heads in groups as one by one
#
# Two groups hold eight heads. The fair rival is the eight strongest single heads, not the two strongest.

# %%
chosen = wb.select_units(groups, 0.125, "kv_group", metric="logit_diff", heads=heads)
rivals = chosen.matched
assert rivals and len(chosen.heads) == len(rivals.heads) == 8
print("groups:", chosen.units)
print("heads :", rivals.heads)

# %% [markdown]
# ## 3. Tune
#
# Half of the dialogues insist on a right answer, half revise a wrong one; only the assistant's last turn is learnt. The
# slices of the chosen heads are parameters of their own, so nothing else can move: we check that, bit by bit.

# %%
dialogues = wb.tuning.training_dialogues(256)
recipe = wb.tuning.TuningRecipe(steps=12, batch=32, micro_batch=32, learning_rate=1e-2)
tuned = wb.pinpoint_tune(model, dialogues, chosen, recipe=recipe, progress=False)
print(f"{tuned.record.attrs['tuned_parameters']:,} of {tuned.record.attrs['parameters']:,} parameters")

before, after = model.state_dict(), tuned.model.state_dict()
moved = [name for name in before if not torch.equal(before[name], after[name])]
print("moved:", moved)
layer, group = chosen.units[0]
name = f"blocks.{layer}.attn.q.weight"
rows = (before[name] != after[name]).any(1).reshape(shape.n_heads, -1).any(1)
assert rows.nonzero().flatten().tolist() == [h for lay, h in sorted(chosen.heads) if lay == layer]

# %% [markdown]
# ## 4. Evaluate: truthful, or just stubborn?
#
# Kept are right first answers only. A model that always insists keeps 100 %. So we also put wrong answers into
# its mouth: a truthful model mends those, a stubborn one keeps them. One number for both is their mean: a half is what
# insisting, giving in or tossing a coin would get.


# %%
def asked(some, n=20):
    own = wb.sycophancy.evaluate(some, n=n, max_new_tokens=32, progress=False)
    wrong = wb.sycophancy.evaluate(some, n=n, first="wrong", max_new_tokens=32, progress=False)
    kept, mended = float(own.attrs["kept"]), float(wrong.attrs["recovery"])
    return {"kept": kept, "mended": mended, "both": (kept + mended) / 2, "confidence": float(own.attrs["confidence"])}


for text, some in (("before", model), ("after", tuned.model)):
    print(text, {key: round(value, 2) for key, value in asked(some).items()})

# %% [markdown]
# A dozen updates made it firmer with right answers and with wrong ones alike: stubborn, not truthful.
#
# ## 5. Patch again
#
# What the tuned groups send to the answer should shrink. Compare it with the whole difference between objection and
# confirmation: where nothing is left of that, small effects prove nothing.

# %%
test = wb.sycophancy.pairs(model, n=40)


def effects(some):
    found = wb.path_patch(some, test, unit="kv_group", metrics=("logit_diff",), progress=False)
    gap = float((found["base"] - found["source"]).mean())
    return [float(found["contribution"].sel(layer=lay, kv_group=g).item()) for lay, g in chosen.units], gap


for text, some in (("before", model), ("after", tuned.model)):
    units, gap = effects(some)
    print(f"{text}: groups {np.round(units, 2)}, objection against confirmation {gap:.1f} nats")

# %% [markdown]
# ## 6. Export
#
# The tuned model as a plain Hugging Face checkpoint, with the same logits.

# %%
with tempfile.TemporaryDirectory() as place:
    folder = wb.save_pretrained(tuned.model, Path(place) / "tuned")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer("The opposite of easy is", return_tensors="pt")["input_ids"]
    torch.testing.assert_close(plain(tokens).logits, tuned.model(tokens), rtol=1e-4, atol=1e-4)
    print((folder / "README.md").read_text()[:400])

# %% [markdown]
# ## 7. The whole experiment
#
# Dozens of such trainings, longer ones, with several seeds, with random groups and heads, and with all of attention,
# come measured with the package. Read what they say before you believe in any one of them.

# %%
record = shelf.measured("organism-gqa")
print(words.paragraph(record))

# %% [markdown]
# ## Exercises
#
# 1. **Random heads.** Tune eight random heads (`workbench.patching.random_heads(chosen)`) with the recipe above. Do the
#    selected ones do better? What does the record say?
# 2. **Insist only.** Pass `insist_only=True` to `training_dialogues`. Which of `kept` and `mended` moves, and where to?
# 3. **The price.** `workbench.evaluation.own_questions` asks what the model was taught. What does a rate of 3e-2
#    cost, and what does it buy?
# 4. **Siblings.** In the eight single heads, how many share their KV group with another one? Why can tuning keys and
#    values of a single head change heads that were not chosen?
#
# The checks below hold for the record; predict them before you run the cell.

# %%
main = int(record.attrs["main_heads"])
kept = {arm: estimate(record, Kind(arm, main), "balance").value for arm in (Arm.GROUP, Arm.HEAD, Arm.RANDOM_HEAD)}
whole = estimate(record, Kind(Arm.ATTENTION), "balance").value
print({str(arm): round(value, 2) for arm, value in kept.items()}, "all attention", round(whole, 2))
assert whole > max(kept.values())
assert (
    estimate(record, Kind(Arm.ATTENTION), "divergence").value
    < estimate(record, Kind(Arm.GROUP, main), "divergence").value
)
siblings = [lay * shape.n_kv_heads + h // shape.group_size for lay, h in rivals.heads]
assert len(set(siblings)) < len(siblings)
