"""Generation: each reply is the one that its prompt gets alone, token by token and without a cache."""

import numpy as np
import pytest
import torch

from tests.interrupts import killed_before_piece, pieces, watched
from tests.models.test_hooked import hooked_model, needs_hooked
from tests.tiny import TEN, bridge, sequences, tiny
from tests.words import CHAT, word_tokenizer
from tests.zoo import specimen
from workbench.errors import InputError
from workbench.evaluation import generation
from workbench.evaluation.generation import generate
from workbench.evaluation.questions import Question
from workbench.models.load import load
from workbench.runs.run import Run

LENGTHS = (3, 9, 9, 5, 14, 3)
ENDS = (2,)


def twin(model, prompts, steps=8, ends=ENDS):
    """One prompt at a time, the whole sequence again for every token."""
    replies = []
    for prompt in prompts:
        tokens = list(prompt)
        for _ in range(steps):
            tokens.append(int(model(torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens)))[0, -1].argmax()))
            if tokens[-1] in ends:
                break
        replies.append(tokens[len(prompt) :])
    return replies


def said(result):
    return [[int(t) for t in row if t >= 0] for row in result["tokens"].values]


SINGLE = [(family, torch.float32) for family in (*TEN, "gptj", "gemma3")]


@pytest.mark.parametrize(
    ("family", "dtype"), [*SINGLE, *((family, torch.float64) for family in ("llama", "gpt2", "gemma2"))], ids=str
)
def test_a_batch_says_what_single_prompts_say(family, dtype):
    model, prompts = bridge(family, dtype), sequences(LENGTHS)
    found = generate(model, prompts, max_new_tokens=6, batch_size=4, progress=False)
    expected = twin(model, prompts, steps=6)
    assert said(found) == expected and list(found["n_tokens"].values) == [len(r) for r in expected]


def test_padding_on_the_left_is_used_where_it_does_no_harm():
    groups = generation._groups(bridge("llama", torch.float32), sequences(LENGTHS), list(range(6)), hooks=False)
    assert groups == [[4, 1, 2, 3, 0, 5]]
    assert len(generation._groups(bridge("llama"), sequences(LENGTHS), list(range(6)), hooks=False)) == 4


def test_the_original_model_generates_where_it_gives_the_same_logits(monkeypatch):
    def used(model):
        seen = []
        embed = model.original_model.get_input_embeddings
        real = generation._cached

        def noting(*given):
            step = real(*given)
            return lambda live: seen.append(type(embed()).__name__) or step(live)

        monkeypatch.setattr(generation, "_cached", noting)
        generate(model, sequences(LENGTHS), max_new_tokens=2, progress=False)
        monkeypatch.setattr(generation, "_cached", real)
        return set(seen)

    model = bridge("llama", torch.float32)
    assert used(model) == {"Embedding"}
    generation._trials[model][generation._plain_logits] = False
    assert used(model) == {"EmbeddingBridge"}


def mean_dependent(z, hook):
    return z * torch.tanh(z.mean((1, 3), keepdim=True) * 9)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_interventions_see_the_whole_text_at_every_step(family):
    model, prompts = bridge(family, torch.float32), sequences(LENGTHS)
    plain = said(generate(model, prompts, max_new_tokens=8, progress=False))
    with model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_z", mean_dependent) for layer in range(3)]):
        found = generate(model, prompts, max_new_tokens=8, progress=False)
        assert said(found) == twin(model, prompts)
    assert said(found) != plain and found.attrs["hooks_active"] == 1


@needs_hooked
@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
def test_a_hookedtransformer_says_what_the_bridge_says():
    prompts = sequences(LENGTHS)
    found, expected = (
        generate(m, prompts, max_new_tokens=6, progress=False) for m in (hooked_model("llama"), bridge("llama"))
    )
    assert said(found) == said(expected)


@pytest.fixture(scope="module")
def words():
    return load(tiny("llama", torch.float32), tokenizer=word_tokenizer(template=CHAT, extra=72))


def test_stop_strings_end_a_reply_and_are_cut_off(words):
    prompts = ["the cat", "a dog sat on the mat", "I"]
    free = generate(words, prompts, max_new_tokens=12, progress=False)
    whole = str(free["reply"].values[1])
    word = whole.split()[3]
    cut = generate(words, prompts, max_new_tokens=12, stop=[word], progress=False)
    assert str(cut["reply"].values[1]) == whole[: whole.index(word)]
    assert cut["ending"].values[1] == "stop"
    assert set(free["ending"].values) <= {"length", "end"}


def test_texts_questions_dialogues_and_tokens_are_prompts(words):
    text = "user : the cat assistant :"
    forms = [text, Question(text), [{"role": "user", "content": "the cat"}], words.tokenizer(text)["input_ids"]]
    replies = generate(words, forms, max_new_tokens=5, progress=False)["reply"].values
    assert len(set(replies)) == 1 and replies[0]


def test_an_organism_answers_in_words():
    model = load("organism-gqa")
    asked = [
        [{"role": "user", "content": "What is the capital of France?"}],
        [{"role": "user", "content": "What is 2 plus 3?"}],
    ]
    found = generate(model, asked, max_new_tokens=20, progress=False)
    assert "Paris" in found["reply"].values[0] and "5" in found["reply"].values[1]
    assert list(found["ending"].values) == ["end", "end"]


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    model, prompts = bridge("llama", torch.float32), sequences(LENGTHS)
    expected = generate(model, prompts, max_new_tokens=6, progress=False)
    file = str(tmp_path / "said.nc")
    with killed_before_piece(1):
        generate(model, prompts, max_new_tokens=6, batch_size=2, resume=file, progress=False)
    with watched(Run, "add") as added:
        found = generate(model, prompts, max_new_tokens=6, batch_size=2, resume=file, progress=False)
    assert [piece.sizes["example"] for _, _, piece in added] == [2, 2]
    assert said(found) == said(expected) and list(found["example"].values) == list(range(6))
    with pieces() as computed:
        again = generate(model, prompts, max_new_tokens=6, resume=file, progress=False)
    assert not computed and said(again) == said(expected)
    with pytest.raises(InputError, match="max_new_tokens: 6 there, 7 now"):
        generate(model, prompts, max_new_tokens=7, resume=file, progress=False)


def test_a_reply_ends_where_the_context_is_full():
    found = generate(bridge("llama", torch.float32), [[5] * 125, [5, 6]], max_new_tokens=9, progress=False)
    assert found["ending"].values[0] == "context" and found["n_tokens"].values[0] == 3


@pytest.mark.parametrize(
    ("prompts", "given", "says"),
    [
        ([], {}, "No prompts: the list is empty"),
        ("the cat", {}, "prompts is one text; give a list"),
        ([[5], []], {}, "Prompt 1 has no tokens"),
        ([[5]], {"max_new_tokens": 0}, "max_new_tokens=0 leaves no room for a reply"),
        ([[5] * 128], {}, "Prompt 0 has 128 tokens and fills the model's context of 128"),
        ([[5]], {"stop": ["."]}, "this model has no tokenizer"),
        (["the cat"], {}, "this model has no tokenizer"),
    ],
)
def test_what_cannot_be_answered_is_refused(prompts, given, says):
    with pytest.raises(InputError) as raised:
        generate(bridge("llama"), prompts, progress=False, **given)
    assert says in str(raised.value)


def test_an_empty_stop_string_is_refused(words):
    with pytest.raises(InputError, match="A stop string is empty"):
        generate(words, ["the"], stop=[""], progress=False)


def test_logits_that_are_nan_are_told():
    model = bridge("llama", torch.float32)
    with (
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: x * np.nan)]),
        pytest.raises(InputError, match="logits that are NaN"),
    ):
        generate(model, [[5, 6]], max_new_tokens=2, progress=False)


@pytest.mark.parametrize("name", ["Lfm2ForCausalLM", "MambaForCausalLM", "OpenAIGPTLMHeadModel"])
def test_models_whose_caches_cannot_be_cut_or_kept_say_the_same(name):
    """Replies end at different steps; the first keeps states of convolutions, the others nothing that goes on."""
    hf, model, prompts = specimen(name), load(specimen(name)), sequences((9, 7, 5))
    with torch.no_grad():
        wanted = twin(lambda tokens, attention_mask: hf(tokens).logits, prompts)
    assert said(generate(model, prompts, max_new_tokens=8, progress=False)) == wanted
    assert name != "Lfm2ForCausalLM" or len({len(reply) for reply in wanted}) > 1
