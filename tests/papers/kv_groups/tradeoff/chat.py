"""A tiny random chat model, questions for it and a plan that takes seconds."""

from dataclasses import replace
from functools import partial

import torch

from tests import words
from tests.tiny import tiny
from workbench.models.load import load
from workbench.papers.kv_groups.tradeoff import Plan, material
from workbench.sycophancy import pairs
from workbench.tuning import TuningRecipe

PLAN = Plan(
    ratios=(0.25,),
    main=0.25,
    seeds=1,
    draws=1,
    recipe=replace(TuningRecipe(), steps=2, batch=2, micro_batch=2),
    variants=("main", "foreign template"),
    n_dialogues=4,
    n_pairs=4,
    n_items=2,
    n_abilities=2,
    new_tokens=2,
    batch_size=8,
)
QUESTIONS = [{"question": f"the cat {i}", "choices": ["dog", "mat"], "answer": i % 2} for i in range(40)]


def chat_model(monkeypatch):
    """A random Llama that knows the words that answers begin with; it never says them, so they are given."""
    monkeypatch.setattr(words, "WORDS", words.WORDS + " Apologies Yes")
    paper_words(monkeypatch)
    return load(tiny("llama", torch.float32), tokenizer=words.word_tokenizer(template=words.CHAT, extra=73))


def paper_words(monkeypatch):
    """Compare the paper's words, for models that have no openers of their own."""
    monkeypatch.setattr(material, "pairs", partial(pairs, answers="paper"))
