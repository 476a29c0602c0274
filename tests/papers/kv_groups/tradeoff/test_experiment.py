"""The whole experiment on a tiny model: what is kept, what a resumed run repeats, and how rates are chosen."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import workbench as wb
from tests.papers.kv_groups.tradeoff.chat import PLAN, QUESTIONS, chat_model, paper_words
from tests.tiny import BASE
from workbench import organisms
from workbench.errors import InputError
from workbench.evaluation import Question, score_choices
from workbench.models.load import load
from workbench.organisms.facts import load_facts, tidy
from workbench.papers.kv_groups import tuning_figures
from workbench.papers.kv_groups.tradeoff import CHAT, Job, experiment, material, records, run
from workbench.papers.kv_groups.tradeoff.evaluate import Bench
from workbench.papers.kv_groups.tradeoff.findings import BASE as UNTUNED
from workbench.papers.kv_groups.tradeoff.findings import estimate
from workbench.papers.kv_groups.tradeoff.material import material_of
from workbench.papers.kv_groups.tradeoff.plan import ORGANISM, Arm, Cell, cells
from workbench.prompts import FreeForm
from workbench.runs.results import open_result

BENCHMARKS = Path(os.environ.get("WORKBENCH_DATA", "nowhere")) / "benchmarks"
TASKS = ("strategyqa", "gsm8k", "humaneval", "mmlu")
LONG = LlamaConfig(**BASE | {"vocab_size": 4096, "max_position_embeddings": 4096})


@pytest.fixture
def job(monkeypatch):
    return Job(chat_model(monkeypatch), PLAN, QUESTIONS)


def test_every_cell_is_measured_once_and_a_stopped_run_goes_on(job, tmp_path, monkeypatch):
    ran = []
    own = Bench.run
    some = ("base", "group", "head", "all")
    few = lambda *given: [c for c in cells(*given) if c.arm in some]  # noqa: E731
    monkeypatch.setattr(experiment, "cells", few)

    def counted(bench, cell):
        ran.append(cell.key)
        if len(ran) == 4:
            raise KeyboardInterrupt
        return own(bench, cell)

    monkeypatch.setattr(Bench, "run", counted)
    path = tmp_path / "record.nc"
    with pytest.raises(KeyboardInterrupt):
        run(job, resume=path, progress=False)
    assert run(job, resume=path, so_far=True, progress=False).sizes["cell"] == 3
    record = run(job, resume=path, progress=False)
    assert len(ran) == len(set(ran)) + 1, "only the cell in flight is run again"
    assert record.sizes["cell"] == len(set(ran))
    _check(record, job)
    again = run(job, resume=path, progress=False)
    assert len(ran) == len(set(ran)) + 1
    xr.testing.assert_identical(record, again)


def _check(record, job):
    parts = wb.anatomy(job.source)
    arms = record["arm"].values.tolist()
    base, group = arms.index("base"), arms.index("group")
    assert record["divergence"].values[base] == pytest.approx(0, abs=1e-6)
    assert not record["tuned"].values[base].any()
    mask = record["tuned"].values[group].reshape(parts.n_layers, parts.n_kv_heads, -1)
    assert (mask.all(-1) == mask.any(-1)).all(), "whole groups"
    assert record["tuned_parameters"].values[arms.index("all")] == record.attrs["parameters"]
    assert record["tuned"].values[arms.index("head")].sum() == mask.sum()
    assert set(record["kind"].values) == {"held out", "trained"}
    assert job.source.tokenizer.chat_template.startswith("{% for m"), "the template is put back"


def test_the_base_cell_is_the_base_model_measured_directly(job):
    bench = job.bench()
    found = bench.run(Cell(Arm.BASE))
    said = wb.sycophancy.evaluate(job.source, list(bench.material.items), max_new_tokens=2, progress=False)
    np.testing.assert_array_equal(found["final_right"], said["final_right"])
    heads = wb.path_patch(job.source, bench.material.repatch, unit="head", metrics=("logit_diff",), progress=False)
    np.testing.assert_allclose(
        found["head_effect"], heads["contribution"].sel(metric="logit_diff"), rtol=1e-4, atol=1e-6
    )


def test_questions_for_tuning_choice_and_test_are_different(job):
    material = job.bench().material
    held = {item.question for item, kind in zip(material.items, material.groups, strict=True) if kind == "held out"}
    trained = {message["content"] for dialogue in material.dialogues(0, False) for message in dialogue}
    chooses = {item.question for item in material.validation}
    assert not held & chooses
    assert not any(text.split("\n")[0] in asked for text in held | chooses for asked in trained)


def test_an_organism_is_asked_facts_that_did_not_choose_the_rates():
    material = Job("organism-gqa", ORGANISM).bench().material
    facts = {item.id.split(" ", 1)[1] for item in material.validation}
    held = {
        item.id.split(" ", 1)[1]
        for item, kind in zip(material.items, material.groups, strict=True)
        if kind == "held out"
    }
    assert len(held) >= 90
    assert len(facts) >= 40
    assert not held & facts
    assert [ability.name for ability in material.abilities] == [
        "two-hop",
        "word problem",
        "one-line function",
        "choices",
    ]


def test_the_rate_with_the_best_balance_is_taken():
    def found(kept, mended):
        return xr.Dataset(
            {
                "first_right": ("item", [True, True]),
                "final_right": (("item", "challenge"), [[kept], [kept]]),
                "final_right_after_wrong": (("item", "challenge"), [[mended], [not mended]]),
            }
        )

    trials = {
        Cell(arm, 8, 1000, "rate", rate): found(rate == 1e-2, True)
        for arm in (Arm.GROUP, Arm.HEAD)
        for rate in ORGANISM.rates["units"]
    }
    trials |= {Cell(arm, 64, 1000, "rate", 1e-3): found(True, True) for arm in (Arm.ATTENTION, Arm.ALL)}
    rates = experiment.chosen_rates(ORGANISM, trials)
    assert rates == {"units": 1e-2, "attention": 1e-3, "all": 1e-3}
    assert experiment.balance(found(True, True)) == 0.75
    nothing_right = found(True, True).assign(first_right=("item", [False, False]))
    trials = {Cell(Arm.ALL, 64, 1000, "rate", rate): nothing_right for rate in (3e-4, 3e-3)}
    trials[Cell(Arm.ALL, 64, 1000, "rate", 1e-3)] = found(False, False)
    assert experiment.chosen_rates(ORGANISM, trials)["all"] == 1e-3, "a model that answers nothing rightly is no choice"


def test_free_questions_are_tuned_on_and_asked_in_words_and_a_stopped_run_goes_on(monkeypatch, tmp_path):
    model = load("organism-gqa")
    own = material.pairs
    monkeypatch.setattr(material, "pairs", lambda model, n, questions: own(model, n))
    facts = [fact for fact in load_facts() if fact.kind == "capital"][:40]
    questions = [FreeForm(tidy(f.questions[0].format(s=f.subject)), (f.answer,), f.others[:3]) for f in facts]
    changes = {"arms": ("group", "attention"), "seeds": 1, "ratios": (0.125,), "n_pairs": 4, "n_items": 6, "n_seen": 2}
    changes |= {"recipe": PLAN.recipe, "n_dialogues": 8, "new_tokens": 12, "variants": ("main",), "batch_size": 8}
    changes["rates"] = {"group": (1e-3, 1e-2), "attention": (1e-3,)}
    job = Job(model, CHAT, questions, changes=changes)
    path = tmp_path / "record.nc"
    tune = Bench.tune
    monkeypatch.setattr(Bench, "tune", lambda bench, cell: tune(bench, cell) if cell.variant == "rate" else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(job, resume=path, progress=False)
    tuned = []
    monkeypatch.setattr(Bench, "tune", lambda bench, cell: tuned.append(cell.key) or tune(bench, cell))
    record = run(job, resume=path, progress=False)
    assert len(tuned) == record.sizes["cell"] - 1 == 2, "rates are not tried again"
    assert set(record["arm"].values) == {"base", "group", "attention"}
    assert record["kind"].values.tolist() == ["held out"] * 6 + ["trained"] * 2
    assert record["first_right"].values[0].any(), "in words the base model knows some"
    assert record["gives_in"].values[0].mean() > 0.5, "and gives in"
    assert not (record["gives_in"] & record["stands_firm"]).any()
    assert np.isfinite(record["training_loss"].values[1:]).all()
    records.write(record, tmp_path / "written.nc")
    record = open_result(tmp_path / "written.nc")
    columns = tuning_figures.table_columns(record)
    assert columns["Tuned"] == ["not tuned", "KV groups", "all attention"]
    assert set(columns) >= {"Known kept", "Gives in"}
    known = estimate(record, UNTUNED, "kept of known", challenge=None).value
    first = record["first_right"].values[0, :6].astype(bool)
    assert known == pytest.approx(record["final_right"].values[0, :6][first].mean())


def test_benchmarks_with_choices_are_asked_in_words_with_their_chance(tmp_path):
    folder = tmp_path / "commonsenseqa"
    folder.mkdir()
    row = {"answerKey": "B", "question": {"stem": "Where is milk?", "choices": []}}
    row["question"]["choices"] = [{"label": x, "text": f"place {x}" * n} for n, x in enumerate("ABCDE", 1)]
    (folder / "dev_rand_split.jsonl").write_text(json.dumps(row) + "\n")
    model = load("organism-gqa")
    plan = CHAT.changed(n_pairs=4, n_items=2)
    found = material_of(model, plan, None, ("commonsenseqa",), tmp_path).abilities[-1]
    assert (found.name, found.size, found.chance) == ("commonsenseqa, in words", 1, 0.2)
    choices = tuple(" " + f"place {x}" * n for n, x in enumerate("ABCDE", 1))
    by_hand = score_choices(model, [Question("Question: Where is milk?\nAnswer:", choices, 1)], progress=False)
    per_character = by_hand["loglikelihood"].values[0] / [len(choice) - 1 for choice in choices]
    assert found.ask(model).tolist() == [per_character.argmax() == 1]


def test_what_cannot_be_run_is_refused(job, tmp_path):
    with pytest.raises(InputError, match="this one is in memory"):
        run(job, processes=2)
    with pytest.raises(InputError, match="at least 40"):
        Job(job.source, PLAN, QUESTIONS[:5]).bench()
    with pytest.raises(InputError, match="read from local files"):
        Job(job.source, PLAN, QUESTIONS, ("gsm8k",)).bench()
    with pytest.raises(InputError, match="name no wrong answer"):
        Job(job.source, PLAN, [{"question": f"the cat {i}", "answer": "dog"} for i in range(40)]).bench()


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="WORKBENCH_DATA with the original benchmark files is not set")
def test_general_ability_is_asked_from_the_original_files(monkeypatch):
    paper_words(monkeypatch)
    model = load(LlamaForCausalLM(LONG), tokenizer=AutoTokenizer.from_pretrained(organisms.folder("organism-gqa")))
    asked = material_of(model, PLAN, QUESTIONS, TASKS, BENCHMARKS, run_code=True)
    assert [ability.name for ability in asked.abilities] == list(TASKS)
    for ability in asked.abilities:
        assert ability.ask(model).shape == (ability.size,) == (PLAN.n_abilities,), ability.name
    with pytest.raises(InputError, match="run_code"):
        material_of(model, PLAN, QUESTIONS, ("humaneval",), BENCHMARKS).abilities[0].ask(model)
