"""Prompts: pairs that differ in one respect, texts of any kind as tokens, chat templates, questions.

Everything that turns what a user has into token ids or into a question is here, so that BOS, padding, templates and the
forms of question files are decided once.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
