"""Prompts: pairs that differ in one respect, texts of any kind as tokens, chat templates, questions."""
