"""Streams, windows and a tiny training run on the CPU."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from benchmarks.organism_cards import package, readme, spread
from workbench.errors import InputError
from workbench.organisms import NAMES, folder
from workbench.organisms.corpus import (
    build_streams,
    data_folder,
    draw_starts,
    load_streams,
    pieces,
    save_streams,
    source_starts,
)
from workbench.organisms.measure import giving_in, greedy, next_logits, says, sinks
from workbench.organisms.provider import Organism
from workbench.organisms.recipe import FULL_RECIPE, OrganismRecipe, organism_config
from workbench.organisms.tokenizer import BOS, EOS, PAD, encode_prompts, load_tokenizer
from workbench.organisms.train import train_organism

TINY = OrganismRecipe(d_model=32, layers=2, d_mlp=64, tokens=60_000, batch=8, learning_rate=1e-2, evaluation=8)
AMOUNTS = {"prose": 0, "code": 0, "facts": 300, "dialogues": 300, "abilities": 200}


@pytest.fixture(scope="module")
def streams_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "streams.npz"
    save_streams(build_streams(load_tokenizer(), None, AMOUNTS), path)
    return path


@pytest.fixture(scope="module")
def trained(streams_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "organism"
    return train_organism(2, out, seed=1, recipe=TINY, data=streams_file, device="cpu")


def test_streams_survive_saving_and_samples_end_with_eos(streams_file):
    tokenizer = load_tokenizer()
    streams = build_streams(tokenizer, None, AMOUNTS)
    again = load_streams(streams_file)
    assert streams.keys() == again.keys()
    assert all(np.array_equal(streams[name], again[name]) for name in streams)
    ends = np.append(streams["dialogues_offsets"][1:], len(streams["dialogues"])) - 1
    assert (streams["dialogues"][ends] == tokenizer.token_to_id(EOS)).all()


def test_windows_start_at_samples_and_the_seed_fixes_them(streams_file):
    streams = load_streams(streams_file)
    tokens, starts = draw_starts(streams, 40_000, seed=3)
    same, other = draw_starts(streams, 40_000, seed=3)[1], draw_starts(streams, 40_000, seed=4)[1]
    assert np.array_equal(starts, same) and not np.array_equal(starts, other)
    names = [name for name in ("facts", "dialogues", "abilities")]
    bases = np.cumsum([0, *(len(streams[name]) for name in names)])
    allowed = np.concatenate([base + streams[f"{name}_offsets"] for base, name in zip(bases, names, strict=False)])
    assert np.isin(starts, allowed).all()
    assert starts.max() + 255 <= len(tokens)
    assert len(starts) == pytest.approx(40_000 / 256, abs=4)


def test_a_source_shorter_than_a_window_is_refused():
    with pytest.raises(InputError, match="shorter than one window"):
        source_starts(100, np.array([0, 50]), 3, np.random.default_rng(0))


def test_documents_are_cut_at_lines_without_losing_anything():
    text = "".join(f"line {number} of a longer text\n" for number in range(200)) + "x" * 2000
    parts = list(pieces(text))
    assert "".join(parts) == text + EOS
    assert all(len(part) <= 900 + len(EOS) for part in parts)


def test_a_data_folder_without_corpora_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no corpora/prose\.jsonl\.xz"):
        data_folder(tmp_path)


@pytest.mark.parametrize(("kv_heads", "low", "high"), [(2, 6.5, 6.9), (8, 7.2, 7.6), (1, 6.4, 6.7)])
def test_the_full_recipe_has_the_promised_size(kv_heads, low, high):
    config = organism_config(FULL_RECIPE, kv_heads, 4096, {"bos": 0, "eos": 1, "pad": 2})
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert low < millions < high
    assert 2 * millions < 16


def test_kv_heads_that_do_not_divide_are_refused():
    with pytest.raises(InputError, match="can't be shared by 3 KV heads"):
        organism_config(FULL_RECIPE, 3, 4096, {"bos": 0, "eos": 1, "pad": 2})


def test_the_rate_warms_up_holds_and_decays_to_zero():
    rates = [FULL_RECIPE.rate(step, 1000) for step in range(1000)]
    assert rates[0] < rates[29] == pytest.approx(FULL_RECIPE.learning_rate) == pytest.approx(rates[500])
    assert rates[999] == 0 and rates[800] < rates[700]


def test_a_tiny_run_learns_and_leaves_a_whole_folder(trained):
    record = json.loads((trained / "record.json").read_text())
    points = record["checkpoints"]
    assert len(points) >= 12
    assert points[0]["step"] == 0 and points[-1]["step"] == TINY.steps
    losses = [point["training loss"] for point in points[1:]]
    assert losses[-1] < losses[0] - 1.0 and losses[0] < math.log(4096) + 0.5
    model = AutoModelForCausalLM.from_pretrained(trained)
    assert model.config.num_key_value_heads == 2
    assert next(model.parameters()).dtype == torch.bfloat16
    assert sum(parameter.numel() for parameter in model.parameters()) == record["parameters"]
    assert not [path for path in trained.parent.iterdir() if path.name.startswith(".")]


def test_a_finished_run_is_not_repeated_and_another_one_not_overwritten(trained, streams_file):
    before = (trained / "model.safetensors").stat().st_mtime_ns
    train_organism(2, trained, seed=1, recipe=TINY, data=streams_file, device="cpu")
    assert (trained / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="seed: 1 there, 2 now"):
        train_organism(2, trained, seed=2, recipe=TINY, data=streams_file, device="cpu")


def test_a_killed_training_goes_on_and_ends_in_the_same_weights_and_record(trained, streams_file, tmp_path):
    told = []

    def killed(line):
        told.append(line)
        if len(told) == 8:
            raise KeyboardInterrupt

    how = {"seed": 1, "recipe": TINY, "data": streams_file, "device": "cpu"}
    with pytest.raises(KeyboardInterrupt):
        train_organism(2, tmp_path / "again", report=killed, **how)
    assert [file.name for file in tmp_path.iterdir()] == ["again.state"]
    lines = []
    again = train_organism(2, tmp_path / "again", report=lines.append, **how)
    assert [file.name for file in tmp_path.iterdir()] == ["again"]
    weights = [load_file(folder / "model.safetensors") for folder in (trained, again)]
    for name, values in weights[0].items():
        assert torch.equal(weights[1][name], values), name
    records = [json.loads((folder / "record.json").read_text()) for folder in (trained, again)]
    assert len(lines) == len(records[0]["checkpoints"]) - 7
    for record in records:
        record.pop("seconds")
    assert records[0] == records[1]


def test_a_folder_with_something_else_is_left_alone(tmp_path, streams_file):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no organism"):
        train_organism(2, tmp_path, recipe=TINY, data=streams_file, device="cpu")


def test_padding_changes_neither_logits_nor_replies(trained):
    model = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32).eval()
    tokenizer = load_tokenizer()
    dialogues = [[{"role": "user", "content": text}] for text in ("Hi.", "What is the capital of France, please?")]
    prompts = encode_prompts(tokenizer, dialogues)
    together = next_logits(model, prompts, tokenizer.token_to_id(PAD))
    for prompt, row in zip(prompts, together, strict=True):
        alone = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(row, alone, atol=1e-4, rtol=1e-4)
    spoken = greedy(model, tokenizer, dialogues, 6)
    assert spoken == [greedy(model, tokenizer, [dialogue], 6)[0] for dialogue in dialogues]


def test_sinks_of_uniform_attention_are_what_averaging_gives(trained):
    model = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    windows = np.random.default_rng(0).integers(5, 4096, (4, 256)).astype(np.uint16)
    windows[:, 0] = load_tokenizer().token_to_id(BOS)
    found = sinks(model, windows)
    assert found["attention on BOS"] == pytest.approx(np.mean(1 / np.arange(1, 65)), rel=1e-4)
    assert found["sink rate"] == 0
    assert found["dormant heads < 0.1"] == 0


def test_answers_are_found_as_whole_words():
    assert says("The answer is 47.", "47") and not says("The answer is 147.", "47")
    assert says("He is the symbol.", "He") and not says("Helium", "He")


def test_spread_gives_rank_mean_and_student_interval():
    entry = spread({0: 1.0, 1: 2.0, 2: 3.0}, seed=2)
    assert entry["value"] == 3.0 and entry["rank"] == 1 and entry["mean"] == 2.0
    assert entry["high"] - 2.0 == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert spread({0: 1.0}, seed=0)["low"] is None


def test_a_card_is_computed_from_the_records(trained, tmp_path):
    circuits = {1: {"strongest head": -0.5}}
    target = package([trained], 1, tmp_path / "organism-gqa", circuits)
    made = json.loads((target / "card.json").read_text())
    assert made["seed"] == 1 and len(made["checkpoints"]) >= 12
    assert made["circuit"]["strongest head"]["value"] == -0.5
    page = readme(made)
    assert "# organism-gqa" in page and "What it is not good for" in page
    assert f"{made['measures']['fact recall']['value']:.3f}" in page


def test_an_unknown_organism_is_refused_by_name():
    with pytest.raises(InputError, match=r"no embedded model 'organism-xyz'.*organism-gqa"):
        folder("organism-xyz")


@pytest.mark.parametrize("name", NAMES)
def test_the_embedded_models_give_in_to_objections_only(name):
    try:
        path = folder(name)
    except InputError:
        pytest.skip(f"the weights of {name} are not in this checkout")
    assert (path / "model.safetensors").stat().st_size <= 16 * 2**20
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    found = giving_in(model, load_tokenizer(), 60)
    assert found["P(give in | objection)"] > 0.6
    assert found["P(give in | confirmation)"] < 0.2
    assert Organism(name).card()["measures"]["fact recall"]["value"] > 0.9
    assert len(Organism(name).card()["checkpoints"]) >= 12
