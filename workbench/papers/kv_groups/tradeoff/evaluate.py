"""One cell: tune the base model in the cell's heads, and measure what became of it.

1. Units come from the base model's effects (`units`); the tuning is `workbench.pinpoint_tune`.
2. Every question is put to the tuned model, doubted, and asked again. Once the first answer is the model's own, once a
   wrong one is put into its mouth: a truthful model keeps the first and mends the second, a stubborn one keeps both.
3. Abilities, the divergence of the next token from the base model on plain text, and the effects of all heads and
   groups once more (`units.effects_of`).

Outcomes are kept answer by answer, so that intervals can be taken over questions and trainings together.
"""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch.nn import functional

from workbench.evaluation.generation import ContextFull
from workbench.models.anatomy import anatomy
from workbench.papers.kv_groups.tradeoff.material import TuningTexts
from workbench.papers.kv_groups.tradeoff.plan import BASE, VARIANTS, Cell, Plan, Variant, budgets
from workbench.papers.kv_groups.tradeoff.units import METRIC, Effects, chosen_heads, effects_of
from workbench.patching.units import HeadCounts
from workbench.prompts.texts import token_sequences
from workbench.protocol import HookedModel
from workbench.sycophancy import evaluate
from workbench.sycophancy.items import Item
from workbench.tuning import Tuned, pinpoint_tune


class Bench:
    """A base model with its material; without given effects they are patched when first needed."""

    def __init__(self, model: HookedModel, plan: Plan, material: TuningTexts, effects: Effects | None = None):
        self.model, self.plan, self.material = model, plan, material
        parts = anatomy(model)
        self.counts = HeadCounts(parts.n_layers, parts.n_heads, parts.n_kv_heads)
        self.sizes = budgets(plan, self.counts)
        self._effects = effects

    @cached_property
    def effects(self) -> Effects:
        """What units are selected by."""
        return self._effects or effects_of(self.model, self.material.selection, self.sizes.group)

    @cached_property
    def tokens(self) -> list[list[int]]:
        """The plain texts."""
        return token_sequences(self.model, list(self.material.texts))

    @cached_property
    def before(self) -> list[torch.Tensor]:
        """Log-probabilities of the base model on the plain texts."""
        return log_probabilities(self.model, self.tokens)

    def heads(self, cell: Cell) -> Any:
        """What a cell tunes, as `pinpoint_tune` takes it."""
        return list(chosen_heads(cell, self.effects, self.sizes)) if cell.arm.selection else cell.arm.unit

    def run(self, cell: Cell) -> xr.Dataset:
        """Tune and measure one cell; cells of the variant "rate" are measured on the validation questions only."""
        began = time.perf_counter()
        facts: dict[str, Any] = {"tuned_parameters": 0}
        model, mask = self.model, np.zeros((self.counts.n_layers, self.counts.n_heads), dtype=bool)
        if cell != BASE:
            tuned = self.tune(cell)
            model = tuned.model
            attrs = tuned.record.attrs
            mask[tuple(np.transpose(attrs["heads"]))] = True
            last = float(tuned.record["loss"].values[-9:].mean())
            facts = {"tuned_parameters": attrs["tuned_parameters"], "training_loss": last}
        found = self.asked(model, self.material.validation) if cell.variant == "rate" else self.measured(model)
        facts |= {"duration_s": time.perf_counter() - began}
        return found.assign({name: float(value) for name, value in facts.items()}).assign(
            tuned=(("layer", "head"), mask)
        )

    def tune(self, cell: Cell) -> Tuned:
        """The tuned copy with its record."""
        variant = VARIANTS.get(cell.variant, Variant())
        changes = dict(variant.recipe) | {"seed": cell.draw, "learning_rate": cell.learning_rate}
        recipe = replace(self.plan.recipe, **changes)
        kv = self.counts.n_heads != self.counts.n_kv_heads if variant.other_kv else None
        dialogues = self.material.dialogues(cell.draw, variant.insist_only)
        with _template(self.model, variant.template):
            tuned = pinpoint_tune(self.model, dialogues, self.heads(cell), recipe=recipe, kv=kv, progress=False)
        tuned.model.tokenizer.chat_template = self.model.tokenizer.chat_template
        torch.cuda.empty_cache()  # For the other processes.
        return tuned

    def measured(self, model: HookedModel) -> xr.Dataset:
        """Everything that is measured of a model in the end."""
        found = self.asked(model, self.material.items)
        effects = effects_of(model, self.material.repatch, self.sizes.group)
        gap = (effects.heads["base"] - effects.heads["source"]).sel(metric=METRIC).mean("example")
        found = found.assign(
            head_effect=effects.heads["contribution"].sel(metric=METRIC, drop=True),
            group_effect=effects.groups["contribution"].sel(metric=METRIC, drop=True).rename(kv_group="group"),
            gap=gap.drop_vars("metric"),
        )
        if self.material.abilities:
            solved = [ability.ask(model) for ability in self.material.abilities]
            names = [ability.name for ability in self.material.abilities]
            found = found.assign(solved=("question", np.concatenate(solved).astype(bool)))
            found = found.assign_coords(ability=("question", np.repeat(names, [len(s) for s in solved]).astype(object)))
        divergence, loss = zip(
            *map(_compare, self.before, log_probabilities(model, self.tokens), self.tokens), strict=True
        )
        return found.assign(divergence=float(torch.cat(divergence).mean()), text_loss=float(torch.cat(loss).mean()))

    def asked(self, model: HookedModel, items: Sequence[Item]) -> xr.Dataset:
        """Answers to doubted questions, after the model's own first answer and after a wrong one put into its mouth."""
        plan = self.plan
        options: dict[str, Any] = {"batch_size": plan.batch_size, "max_new_tokens": plan.new_tokens, "progress": False}
        try:
            own = outcomes(evaluate(model, list(items), **options))
            wrong = outcomes(evaluate(model, list(items), first="wrong", **options))
        except ContextFull:
            # A tuning that went wrong: it talks until nothing more fits, and has answered nothing.
            own = wrong = _nothing_said((len(items), len(self.material.challenges)))
        torch.cuda.empty_cache()
        own |= {f"{name}_after_wrong": values for name, values in wrong.items() if not name.startswith("first")}
        variables = {name: (("item", "challenge")[: values.ndim], values) for name, values in own.items()}
        return xr.Dataset(variables, coords={"challenge": list(self.material.challenges)})


def outcomes(said: xr.Dataset) -> dict[str, np.ndarray]:
    """What counts of the answers that `workbench.sycophancy.evaluate` gives, as booleans."""
    return {
        "first_right": said["first_right"].values,
        "first_unread": said["first_answer"].values == "",
        "final_right": said["final_right"].values,
        "final_unread": said["final_answer"].values == "",
        "admits": said["admits"].values,
        "gives_in": said["stance"].values == "gives_in",
        "stands_firm": said["stance"].values == "stands_firm",
    }


def _nothing_said(shape: tuple[int, int]) -> dict[str, np.ndarray]:
    none, every = np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool)
    found = dict.fromkeys(("final_right", "admits", "gives_in", "stands_firm"), none)
    return found | {"final_unread": every, "first_right": none[:, 0], "first_unread": every[:, 0]}


@torch.no_grad()
def log_probabilities(model: HookedModel, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Log-probabilities of every next token, `[pos, vocab]` for each sequence."""
    device = next(model.parameters()).device
    return [model(torch.tensor([ids], device=device))[0, :-1].float().log_softmax(-1) for ids in map(list, sequences)]


def _compare(before: torch.Tensor, after: torch.Tensor, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """KL divergence of the tuned model from the base model at every position, and the tuned model's loss there."""
    divergence = functional.kl_div(after, before, log_target=True, reduction="none").sum(-1)
    return divergence.cpu(), -after.gather(1, torch.tensor(ids[1:], device=after.device)[:, None])[:, 0].cpu()


@contextmanager
def _template(model: HookedModel, template: str) -> Generator[None]:
    """Another chat template, for the time of a tuning."""
    own = model.tokenizer.chat_template
    model.tokenizer.chat_template = template or own
    try:
        yield
    finally:
        model.tokenizer.chat_template = own
