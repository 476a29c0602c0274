"""Where do attention sinks come from? A toy language on which small transformers develop them within a minute.

From "Active-Dormant Attention Heads" (Guo, Pai, Bai, Jiao, Jordan and Mei 2024). A `Task` is a language in which some
triggers are followed by a copy of what came before them; `train` trains one small transformer per seed on it, all seeds
at once, and records every measure; `dynamics` says when each phenomenon appeared; `interventions` removes parts;
`flow` and `peak` compute the theory's predictions. One seed of the small setting costs about 20 seconds on one CPU
core, one of the paper's 10,000-step runs 45 seconds (one layer) to 100 seconds (three) on an H200.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
