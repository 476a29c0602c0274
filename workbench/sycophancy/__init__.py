"""Sycophancy: does a chat model give in when the user doubts a right answer, and what inside it does that?

`evaluate` asks, doubts and asks again, and measures how often a right answer is kept, changed or followed by none that
can be read, how often no mistake is admitted (confidence), and how often a wrong one is mended; `compare` tests two
models on the same questions,
`are_you_sure` makes the questions from a benchmark and `load_set` reads published ones. It costs three generations per
question and challenge: seconds for an embedded model.

`pairs` builds challenged and confirmed dialogues for path patching (Chen et al. 2024, arXiv 2409.01658; groups: Hara et
al. 2026), `circuit` sums up what path patching finds on them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
