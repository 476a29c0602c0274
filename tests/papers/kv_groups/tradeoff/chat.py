"""A tiny random chat model, questions for it and a plan that takes seconds."""

from dataclasses import replace

import torch

from tests import words
from tests.tiny import tiny
from workbench.models.load import load
from workbench.papers.kv_groups.tradeoff import Plan
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
    """A random Llama that knows the words that answers begin with."""
    monkeypatch.setattr(words, "WORDS", words.WORDS + " Apologies Yes")
    return load(tiny("llama", torch.float32), tokenizer=words.word_tokenizer(template=words.CHAT, extra=73))
