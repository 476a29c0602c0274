"""What a type checker must accept; `ty check` reads this file, nothing runs it."""

from typing import assert_type

import plotly.graph_objects as go
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

import workbench as wb
from workbench.names import Unit


def models(bridge: TransformerBridge) -> None:
    assert_type(wb.load("organism-gqa"), wb.HookedModel)
    wb.load("organism-gqa", backend="hooked", dtype="float64", device="cpu", tokenizer="folder")
    wb.load(bridge).generate("The opposite of easy is")
    wb.anatomy(bridge).blocks[0].w_o()
    wb.check(bridge)


def patching(model: wb.HookedModel, pairs: wb.PromptPairs) -> None:
    unit: Unit = "kv_group"
    found = wb.path_patch(model, pairs, unit=unit, metrics=("logit_diff", "prob"))
    assert_type(found, xr.Dataset)
    assert_type(wb.plot.heatmap(wb.path_patch(model, pairs)), go.Figure)
    wb.activation_patch(model, pairs, hook="v", unit="kv_head", positions="each")
    wb.attribution_patch(model, pairs, hook="resid_pre", steps=4)
    chosen = wb.select_units(found, 0.04, "kv_group", metric="logit_diff")
    tuned = wb.pinpoint_tune(model, wb.tuning.training_dialogues(64), chosen)
    wb.save_pretrained(tuned.model, "folder")
    wb.save_result(found, "patched.nc")
    wb.compare_estimates(wb.open_result("patched.nc"), found)


def rooms(model: wb.HookedModel, texts: list[str]) -> None:
    @wb.inactive_heads.score("LOUDEST", inactive="below")
    def loudest(layer: wb.inactive_heads.Layer):
        return layer.z_norm.amax(1)

    scores = wb.head_scores(model, texts, ["AHON_LN", loudest])
    wb.inactive_head_thresholds(scores, [0.1, 0.3])
    with wb.zero_heads(model, score="AHON_LN", tau=0.2):
        wb.evaluation.score_choices(model, wb.evaluation.load_task("mmlu", "folder"), normalise="bytes")
    with wb.extreme.mask_key(model):
        wb.active_dormant(model, {"code": texts, "prose": texts}, unit="kv_group", sinks="extreme")
    wb.extreme.LightTuningRecipe(penalty="peak")
    wb.papers.recipe("sycophancy/layer-sums")
    wb.plot.save_figure(go.Figure(), "figure", ("html", "png"))
    wb.bigram_backcopy.train(wb.bigram_backcopy.Task(kind="markov"), optimizer="sgd", precision="tf32")
    wb.sycophancy.evaluate(model, first="wrong", split="train")
