"""lm-evaluation-harness: prompts, log-likelihoods and accuracies equal those of local scoring, hooks included."""

import json

import numpy as np
import pytest
import torch

from tests.evaluation.files import write_benchmarks
from tests.models.test_hooked import hooked_model, needs_hooked
from tests.tiny import bridge
from workbench.errors import InputError
from workbench.evaluation import harness
from workbench.evaluation.generation import generate
from workbench.evaluation.local import score_choices
from workbench.evaluation.tasks import load_task
from workbench.inactive_heads import ablation_curve, harnessed, zero_heads
from workbench.models.load import load

try:
    import lm_eval
except ImportError:
    lm_eval = None
needs_harness = pytest.mark.skipif(lm_eval is None, reason="lm-evaluation-harness (extra eval) is not installed")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)


@pytest.fixture(autouse=True)
def no_survey_of_the_machine(monkeypatch):
    """The harness asks pip and others about the machine after every run, for seconds."""
    if lm_eval is not None:
        monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


@pytest.fixture(scope="module")
def organism():
    return load("organism-gqa")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Benchmarks, and the same rows as tasks of the harness."""
    folder = write_benchmarks(tmp_path_factory.mktemp("benchmarks"), 6)
    own = folder / "own"
    own.mkdir()
    law = {}
    for split in ("test", "dev"):
        rows = [(f"{split[0]} {i}, what?", [f"{split[0]}{i}{k}" for k in "wxyz"], i % 4) for i in range(6)]
        law[split] = _lines(
            own / f"law_{split}.jsonl", [dict(zip(("question", "choices", "answer"), r, strict=True)) for r in rows]
        )
    truth = [{"question": f"Why {i}?", "choices": [f"Because {i}.", f"No {i}.", "No."], "answer": 0} for i in range(6)]
    plain = _lines(own / "truth.jsonl", truth)
    lettered = "{{question.strip()}}\n" + "\n".join(f"{k}. {{{{choices[{i}]}}}}" for i, k in enumerate("ABCD"))
    about = "The following are multiple choice questions (with answers) about law.\n\n"
    _task(own, "own_law", law, about, lettered + "\nAnswer:", list("ABCD"), "first_n")
    _task(own, "own_truth", {"test": plain, "dev": plain}, "", "Q: {{question}}\nA:", "{{choices}}", "default")
    return folder


def _task(own, name, files, description, text, choices, sampler):
    """A task of the harness; YAML reads JSON."""
    settings = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
        "fewshot_split": "dev",
        "fewshot_config": {"sampler": sampler},
        "output_type": "multiple_choice",
        "description": description,
        "doc_to_text": text,
        "doc_to_choice": choices,
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    (own / f"{name}.yaml").write_text(json.dumps(settings))


def _lines(file, rows):
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return str(file)


def requests(model, task, folder, shots):
    """The harness's own requests and log-likelihoods of a task, by question."""
    from lm_eval.tasks import TaskManager, get_task_dict

    wrapped = harness.harness_model(model, batch_size=3)
    found = get_task_dict([task], TaskManager(include_path=str(folder / "own"), include_defaults=False))[task]
    found.set_config("num_fewshot", shots)
    found.set_fewshot_seed(1234)
    found.build_all_requests(limit=None)
    values = wrapped.loglikelihood(found.instances, disable_tqdm=True)
    asked = [(i.args[0], i.args[1], i.doc_id, i.idx) for i in found.instances]
    return asked, [value for value, _ in values]


@needs_harness
@pytest.mark.parametrize("shots", [0, 2])
def test_local_scoring_equals_the_harness(organism, folder, shots):
    asked, values = requests(organism, "own_law", folder, shots)
    questions = load_task("mmlu_law", folder, shots)
    mine = score_choices(organism, questions, progress=False)["loglikelihood"].values
    for (context, continuation, question, choice), value in zip(asked, values, strict=True):
        assert context == questions[question].prompt and continuation == questions[question].choices[choice]
        assert mine[question, choice] == pytest.approx(value, abs=1e-4)


@needs_harness
def test_choices_of_several_tokens_are_equal_too(organism, folder):
    asked, values = requests(organism, "own_truth", folder, 0)
    questions = load_task("truthfulqa", folder)
    bare = [q.__class__(q.prompt[q.prompt.rindex("Q: ") :], q.choices, q.answer, q.id) for q in questions]
    mine = score_choices(organism, bare, progress=False)["loglikelihood"].values
    for (context, continuation, question, choice), value in zip(asked, values, strict=True):
        assert context == bare[question].prompt and continuation == bare[question].choices[choice]
        assert mine[question, choice] == pytest.approx(value, abs=1e-4)


@needs_harness
def test_a_run_gives_the_same_accuracy_with_and_without_hooks(organism, folder):
    questions = load_task("mmlu_law", folder, 0)

    def zero(z, hook):
        return z * 0

    for hooks in ([], [(f"blocks.{layer}.attn.hook_z", zero) for layer in range(3)]):
        with organism.hooks(fwd_hooks=hooks):
            theirs = harness.run_harness(organism, "own_law", n_shots=0, include=folder / "own")
            mine = score_choices(organism, questions, progress=False)
        assert float(theirs["value"].sel(task="own_law", metric="acc")) == pytest.approx(mine.attrs["accuracy"])
        assert int(theirs["n_examples"][0]) == 6 and theirs.attrs["hooks_active"] == bool(hooks)
        assert np.isfinite(theirs["stderr"].sel(metric="acc")).all()


@needs_harness
def test_answers_are_those_of_local_scoring(organism, folder):
    mine = score_choices(organism, load_task("mmlu_law", folder, 2), progress=False)["correct"].values
    theirs = harness.harness_answers(organism, "own_law", n_shots=2, include=folder / "own")
    np.testing.assert_array_equal(theirs, mine)
    with pytest.raises(InputError, match=r"'accuracy' does not say of each question.*these tasks have acc, acc_norm"):
        harness.harness_answers(organism, "own_law", "accuracy", include=folder / "own")


@needs_harness
def test_heads_are_zeroed_while_the_harness_runs(organism, folder):
    tau = 0.9
    task = harnessed("own_law", n_shots=2, include=folder / "own")
    with zero_heads(organism, score="AHON_LN", tau=tau) as zeroed:
        theirs = task(organism)
    with zero_heads(organism, score="AHON_LN", tau=tau) as by_us:
        mine = score_choices(organism, load_task("mmlu_law", folder, 2), progress=False)["correct"].values
    np.testing.assert_array_equal(theirs, mine)
    assert zeroed.share == pytest.approx(by_us.share) and 0.2 < zeroed.share < 0.8
    found = ablation_curve(organism, task, "AHON_LN", [0.2], progress=False)
    assert found.sizes["example"] == 6 and float(found["share"].sel(score="AHON_LN", threshold=0.2)) > 0.05


@needs_harness
def test_text_is_generated_without_a_cache_under_hooks(organism):
    from lm_eval.api.instance import Instance

    def squash(z, hook):
        return z * torch.tanh(z.abs().mean((1, 3), keepdim=True) * 20)

    prompt = "What is the capital of France?"
    hooks = [(f"blocks.{layer}.attn.hook_z", squash) for layer in range(8)]
    with organism.hooks(fwd_hooks=hooks):
        wrapped = harness.harness_model(organism)
        assert wrapped.batch_size == 1
        request = Instance("generate_until", {}, (prompt, {"until": ["."], "max_gen_toks": 8}), 0)
        [theirs] = wrapped.generate_until([request], disable_tqdm=True)
        mine = generate(organism, [prompt], max_new_tokens=8, stop=["."], progress=False)
    assert theirs == mine["reply"].values[0]
    assert "generate" not in vars(organism.original_model)


@needs_harness
@pytest.mark.parametrize(
    ("tasks", "says"),
    [([], "No tasks: give at least one"), ("arc_esy", "did you mean 'arc_easy'?"), ("humaneval", "unconfined")],
)
def test_what_cannot_be_run_is_refused(organism, folder, tasks, says):
    with pytest.raises(InputError) as raised:
        harness.run_harness(organism, tasks, include=folder / "own")
    assert says in str(raised.value)


def test_a_missing_extra_is_told(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)
    with pytest.raises(InputError, match=r"pip install 'workbench\[eval\]'"):
        harness.run_harness(bridge("llama"), "mmlu")


@needs_hooked
@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
def test_a_hookedtransformer_is_refused():
    with pytest.raises(InputError, match="Load it with backend='bridge'"):
        harness.run_harness(hooked_model("llama"), "mmlu")


def test_results_are_laid_out_by_task_and_metric():
    results = {
        "a": {"alias": "a", "acc,none": 0.5, "acc_stderr,none": 0.1, "exact_match,strict-match": 0.2},
        "b": {"alias": "b", "acc,none": 0.25, "acc_stderr,none": "N/A"},
    }
    found = harness._dataset({"results": results, "n-samples": {"a": {"effective": 7}}})
    assert list(found["metric"].values) == ["acc", "exact_match (strict-match)"]
    np.testing.assert_array_equal(found["value"], [[0.5, 0.2], [0.25, np.nan]])
    np.testing.assert_array_equal(found["stderr"], [[0.1, np.nan], [np.nan, np.nan]])
    assert list(found["n_examples"].values) == [7, 0]
