"""What a type checker must refuse; `ty check` makes an ignore that is not needed an error, so every line is a test."""

import plotly.graph_objects as go
import torch

import workbench as wb


def models(module: torch.nn.Linear, pairs: wb.PromptPairs) -> None:
    wb.path_patch("organism-gqa", pairs)  # ty: ignore[invalid-argument-type]
    wb.anatomy(module)  # ty: ignore[invalid-argument-type]
    wb.load("organism-gqa", backend="hoked")  # ty: ignore[invalid-argument-type]
    wb.load(["organism-gqa"])  # ty: ignore[invalid-argument-type]
    wb.load("organism-gqa", tokenizer=3)  # ty: ignore[invalid-argument-type]


def names(model: wb.HookedModel, pairs: wb.PromptPairs, texts: list[str]) -> None:
    wb.path_patch(model, pairs, unit="kv_gruop")  # ty: ignore[invalid-argument-type]
    wb.path_patch(model, pairs, metrics=("logit_dif",))  # ty: ignore[invalid-argument-type]
    wb.activation_patch(model, pairs, hook="zz")  # ty: ignore[invalid-argument-type]
    wb.activation_patch(model, pairs, positions="first")  # ty: ignore[invalid-argument-type]
    wb.attribution_patch(model, pairs, unit="kv_heads")  # ty: ignore[invalid-argument-type]
    wb.select_units(wb.path_patch(model, pairs), by="groups")  # ty: ignore[invalid-argument-type]
    wb.plot.heatmap(wb.path_patch(model, pairs), "logit_dif")  # ty: ignore[invalid-argument-type]
    wb.plot.save_figure(go.Figure(), "figure", ("jpeg",))  # ty: ignore[invalid-argument-type]
    wb.papers.recipe("sycophancy/layer-sum")  # ty: ignore[invalid-argument-type]
    wb.head_scores(model, texts, ["AHON_NL"])  # ty: ignore[invalid-argument-type]
    wb.zero_heads(model, score="AHON_NL", tau=0.1)  # ty: ignore[invalid-argument-type]
    wb.active_dormant(model, {"code": texts}, unit="layer")  # ty: ignore[invalid-argument-type]
    wb.leaf.sensitivity(model, model, [], scores="gradient")  # ty: ignore[invalid-argument-type]
    wb.bigram_backcopy.train(wb.bigram_backcopy.Task(), optimizer="adam")  # ty: ignore[invalid-argument-type]


def old_names(model: wb.HookedModel, pairs: wb.PromptPairs) -> None:
    wb.select(wb.path_patch(model, pairs))  # ty: ignore[deprecated]
    wb.tuning.Recipe()  # ty: ignore[deprecated]
    wb.plots.heatmap(wb.path_patch(model, pairs))  # ty: ignore[missing-attribute]
