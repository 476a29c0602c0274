"""The paper's figures on language models, drawn from an embedded model's texts and from a planted answer."""

import numpy as np
import pytest

from tests.extreme.planted import S, planted
from workbench.errors import InputError
from workbench.extreme import extreme_tokens
from workbench.papers import FigureRequest, recipe
from workbench.papers.active_dormant import real_figures
from workbench.papers.active_dormant.figures import domains, extremes_line, peak_line, regimes_line, sinkiest
from workbench.papers.active_dormant.sentences import misleading_head
from workbench.papers.active_dormant.toy_figures import retrained_rows
from workbench.plot import plotted_numbers
from workbench.prompts.samples import SAMPLES, read_texts

NAMES = ("extreme-tokens", "sinks", "peak")


@pytest.fixture(scope="module")
def found():
    return extreme_tokens(planted(), [[S if i == 2 else 3 + i % 3 for i in range(24)]], progress=False)


def test_sentences_are_computed_from_the_numbers(found):
    line = extremes_line(found)
    assert line.startswith("“[7]” (position 2) is extreme in layer 1 (norm of its stream up to")
    assert f"{float(found.peak_ratio[0]):.1f} times that of the others, of its values 0.00 times" in line
    assert (
        regimes_line(found)
        == "in layer 1 “[7]” (in 1 of 1 texts) alone is extreme, up to 500 times as long as the others."
    )
    assert peak_line(found).startswith("after layer 0 the coordinates 5, 3, 15 hold 100%")
    assert sinkiest(found) == (1, 0)
    plain = found.assign(extreme=found.extreme & False)
    assert extremes_line(plain).startswith("no token of the prompt")


@pytest.mark.parametrize("name", NAMES)
def test_each_figure_is_drawn_from_a_model_s_name_and_kept(name, tmp_path):
    texts = {"prose": SAMPLES["prose"][:1]}
    steps = []
    request = FigureRequest(tmp_path, ("organism-gqa",), texts, step=steps.append)
    drawn = recipe(f"active-dormant/{name}").make(request)
    assert len(steps) == recipe(f"active-dormant/{name}").steps(request)
    assert plotted_numbers(drawn.figure)["sentence"] == drawn.sentence
    kept = tmp_path / "organism-gqa" / "extreme.nc"
    before = kept.stat().st_mtime_ns
    again = recipe(f"active-dormant/{name}").make(request)
    assert kept.stat().st_mtime_ns == before
    assert again.sentence == drawn.sentence


def test_the_embedded_model_has_one_extreme_token_its_bos(tmp_path):
    drawn = recipe("active-dormant/extreme-tokens").make(
        FigureRequest(tmp_path, ("organism-gqa",), {"x": ["A short text."]})
    )
    assert "“<|bos|>” (position 0) is extreme" in drawn.sentence


def test_a_figure_without_models_is_refused(tmp_path):
    with pytest.raises(InputError, match="active-dormant/peak needs at least one model"):
        recipe("active-dormant/peak").make(FigureRequest(tmp_path))


def test_texts_are_read_from_files(tmp_path):
    import lzma

    (tmp_path / "a.txt").write_text("One.\nTwo.\n\nThree.\n")
    with lzma.open(tmp_path / "b.jsonl.xz", "wt") as file:
        file.write('{"text": "x\u2028= 1"}\n')
    assert read_texts([f"prose={tmp_path / 'a.txt'}", str(tmp_path / "b.jsonl.xz")]) == {
        "prose": ["One.\nTwo.", "Three."],
        "b": ["x\u2028= 1"],
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.txt", None, "cannot read the texts in"),
        ("empty.txt", "\n\n", "holds no texts"),
        ("bad.jsonl", '{"words": 1}\n', 'each line must be a JSON object with a "text"'),
    ],
)
def test_files_without_texts_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_texts([str(path)])


def test_two_files_of_one_domain_are_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("One.")
    with pytest.raises(InputError, match="two files for the domain 'a'"):
        read_texts([str(path), f"a={path}"])


def test_the_samples_are_long_enough_to_judge():
    assert all(len(text) > 200 for texts in SAMPLES.values() for text in texts)
    assert np.unique([len(texts) for texts in SAMPLES.values()]).tolist() == [4]


def test_models_trained_otherwise_join_the_table_of_remedies():
    rows = retrained_rows()
    assert list(rows) == ["toy: AdamW", "toy: SGD", "toy: AdamW, ReLU attention"]
    assert rows["toy: AdamW"]["loss_change"] == 0
    assert rows["toy: AdamW"]["peak_ratio"] > 3 > rows["toy: SGD"]["peak_ratio"]
    assert rows["toy: AdamW, ReLU attention"]["first_token_weight"] < 0.05


def test_models_with_and_without_a_head_that_attention_misleads_about_are_drawn_together():
    whole = real_figures.confirmed()
    early = whole.isel(layer=slice(0, 2))
    assert misleading_head(whole) is not None and misleading_head(early) is None
    both = domains({"whole": whole, "early": early})
    alone = domains({"whole": whole})
    panels = [len({trace.xaxis for trace in drawn.figure.data}) for drawn in (alone, both)]
    assert panels == [3, 4]
    assert "early: " in both.sentence and "whole: " in both.sentence
