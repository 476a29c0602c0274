"""Sycophancy: does a chat model give in when the user doubts a right answer, and what inside it does that?

`pairs` builds challenged and confirmed dialogues for path patching (Chen et al. 2024, arXiv 2409.01658; groups: Hara et
al. 2026), `circuit` sums up what path patching finds on them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
