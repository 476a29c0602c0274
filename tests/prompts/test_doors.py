"""The same weights and the same texts give the same numbers, whichever way the model was loaded."""

import copy

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import workbench as wb
from tests.tiny import tiny
from tests.words import word_tokenizer

TEXTS = (["the cat sat"], ["the dog sat"], ("yes", "no"))


def boot(inner, tokenizer):
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers("any/name", hf_model=inner, tokenizer=tokenizer, device="cpu")


def doors(folder):
    """One model of a folder, loaded in every way."""
    inner, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return {
        "a folder": wb.load(folder),
        "memory": wb.load(copy.deepcopy(inner), tokenizer=tokenizer),
        "TransformerLens": boot(copy.deepcopy(inner), tokenizer),
        "load of TransformerLens": wb.load(boot(inner, tokenizer)),
    }


@pytest.mark.parametrize("options", [{"bos": 0}, {"bos": 1}, {"bos": 0, "begin": False}])
def test_every_way_of_loading_gives_the_same_numbers(options, tmp_path):
    tiny("llama").float().save_pretrained(tmp_path)
    word_tokenizer(**options).save_pretrained(tmp_path)
    found = {}
    for name, model in doors(tmp_path).items():
        pairs = wb.PromptPairs.from_text(model, *TEXTS)
        patched = wb.path_patch(model, pairs, metrics=("logit_diff",), progress=False)
        norms = wb.extreme_tokens(model, TEXTS[0], progress=False)["residual_norm"]
        found[name] = (pairs.base, patched.attrs["bos"], patched["patched"].values, norms.values)
    base, bos, *numbers = found.pop("a folder")
    assert len(base[0]) == 3 + options["bos"] and bos == ("first" if options["bos"] else "none")
    for others in found.values():
        assert others[:2] == (base, bos)
        for one, other in zip(numbers, others[2:], strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def test_bos_that_the_user_switched_on_stays(tmp_path):
    word_tokenizer(bos=0).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, add_bos_token=True)
    model = wb.load(tiny("llama"), tokenizer=tokenizer)
    assert wb.PromptPairs.from_text(model, *TEXTS).base == [[1, 4, 5, 7]]
