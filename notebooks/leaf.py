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
# # What distracts a student, and what is knowing it worth?
#
# LeaF (arXiv 2506.07851) looks for the words of a prompt that mislead a student model and not its teacher, prunes them, and
# distils on the pruned prompts. Here the distractor is planted, so we can see what works: first whether it is found, then
# whether finding it pays. Teacher and student are tiny Llamas that come with the package; all of it takes about a minute.

# %%
import numpy as np

from workbench import leaf
from workbench.leaf import toy

teacher, student = toy.model("teacher"), toy.model("B")
drawn = toy.problems(600, rho=0.6, seed=11)
corpus = toy.examples(drawn)
for i in range(3):
    print(toy.text(corpus[i].tokens), "| planted:", toy.text(drawn.tokens[i][drawn.planted[i]]) or "nothing")

# %% [markdown]
# A prompt asks for d1 + d2 + d3 modulo 7, in two steps. `H k` says nothing that matters. In the student's schooling k always
# was the answer, in the teacher's it was any digit.
#
# ## 1. Who is misled?

# %%
tests = toy.test_sets(500, seed=1)


def accuracy(model):
    return {kind: float(toy.right(model.original_model, tests[kind]).float().mean()) for kind in ("conflict", "clean")}


print("teacher", accuracy(teacher))
print("student", accuracy(student))
chosen = leaf.select_examples(student, teacher, corpus, progress=False)
print(chosen.counts)
assert accuracy(teacher)["conflict"] > 0.9 > 0.5 > accuracy(student)["conflict"]

# %% [markdown]
# ## 2. Is the planted clause found?
#
# Every score ranks the words of a misled prompt. `hit` is the share of prompts whose most confounding word is planted,
# among the conflicts; about 0.2 by chance.

# %%
conflicts = [i for i in chosen.index if drawn.conflict[i]][:80]
some = [corpus[i] for i in conflicts]
truth = toy.planted_positions(drawn.take(conflicts))
scores = leaf.sensitivity(student, teacher, some, scores="all", progress=False)
found = toy.detected(scores, truth)
for name in found["score"].values:
    print(f"{name:24} hit {float(found['hit'].sel(score=name)):.2f}  AUROC {float(found['auroc'].sel(score=name)):.2f}")
hit = found["hit"]
assert hit.sel(score="gradient_difference") > 2 * hit.sel(score="random")

# %% [markdown]
# ## 3. Prune and verify
#
# A span is confounding where both models are right without it. The student was wrong on all of these prompts, so that
# pruning anything turns some answers right: random spans are the control.

# %%
misled = chosen.examples
sides = leaf.sensitivity(student, teacher, misled, scores=("gradient_difference", "random"), progress=False)
kept = {}
for name in ("gradient_difference", "random"):
    pruned = leaf.matched(misled, sides, name)
    kept[name], proved = leaf.verified(student, teacher, pruned, progress=False)
    rescued = len({one.origin for one in kept[name]}) / len(misled)
    print(f"{name:20} {len(pruned)} spans removed, {len(kept[name])} accepted, {rescued:.2f} of the prompts rescued")
assert len(kept["gradient_difference"]) > len(kept["random"])

# %% [markdown]
# ## 4. Distil, on equal terms
#
# Four ways with the same number of updates and of lessons in each: plain distillation; LeaF's pruned prompts beside the
# originals; the misled originals up-weighted to half of each batch, nothing pruned; and ours, the same originals with the
# attention to the found spans as a part of the loss.

# %%
accepted = kept["gradient_difference"]
arms = {
    "KD": leaf.Arm(),
    "LeaF": leaf.Arm(accepted),
    "misled, half": leaf.Arm(misled, 0.5),
    "released": leaf.Arm(leaf.attention_penalised(misled, accepted, range(len(misled))), 0.5, attention=5),
}
options = {"batch_size": 32, "micro_batch": 32, "learning_rate": 5e-4, "progress": False}
compared = leaf.compare(student, teacher, corpus, arms, accuracy, steps=60, seeds=(0,), **options)
table = compared["value"].isel(seed=0).to_pandas().round(3)
print(table)
assert table.loc["misled, half", "conflict"] > table.loc["KD", "conflict"] - 0.02

# %% [markdown]
# One seed of sixty updates is an anecdote. The record that comes with the package has sixty students, twelve in each of five
# regimes; the sentences are computed from it, with intervals.

# %%
from workbench.papers.leaf.figures import findings

for sentence in findings(toy.measured()):
    print("-", sentence)

# %% [markdown]
# ## Exercises
#
# 1. Where the distractor was never met (`toy.model("N")`), which scores find it, and why is perplexity not one of them? What
#    must a student have learnt for perplexity to find it (regime P of the record)?
# 2. Score on the student's own wrong replies (`workbench.leaf.toy.detection.on_own_output`). What becomes of the hit, and why?
# 3. A pruned prompt is one that the student solves already. Compare `leaf.gaps` on the accepted counterfactuals and on their
#    originals: how much is left to learn from each?
# 4. Give `leaf.compare` three seeds and look at `leaf.paired(compared["value"], "KD")`.
#
# Check for exercise 3: the gap to the teacher is in the originals.

# %%
pruned_gap = leaf.gaps(student, teacher, [one.example for one in accepted])
original_gap = leaf.gaps(student, teacher, [misled[one.origin] for one in accepted])
print(f"mean gap to the teacher: pruned {np.mean(pruned_gap):.2f}, original {np.mean(original_gap):.2f} nats per token")
assert np.mean(original_gap) > 2 * np.mean(pruned_gap)
