"""Does tuning by KV group beat tuning by head? The group paper's experiment, with the controls that it lacks.

`run` tunes a model in the strongest KV groups, in as many single heads (SPT), in random ones, in all of attention and
in all parameters, and measures each tuned model: truthful or just stubborn, what it can still do, how far it drifted,
and what its heads do now. `findings` makes estimates with intervals of it, `records` holds the records of the embedded
models. Papers: Hara et al. 2026 (groups), Chen et al. 2024 (heads, arXiv 2409.01658).

Hypotheses, written before the first full run:

1. Where heads share keys and values (organism-gqa), tuning the selected KV groups does better than tuning as many
   selected single heads: a higher mean of right answers kept and wrong answers mended.
2. Where no two heads share any (organism-mha), blocks of four neighbouring heads have no such advantage.
3. Selected units do better than as many random ones, also than random ones in the same layers.
4. What the tuned units send to the answer shrinks: their effects, as shares of the whole difference between objection
   and confirmation, become smaller than those of the units that were left alone.
5. Tuning makes the model truthful and not just stubborn: wrong answers are mended at least as often as before. Trained
   on insisting dialogues alone, it becomes stubborn.
6. Pinpoint tuning costs less of the other abilities, and moves the next token on plain text less, than tuning all of
   attention or all parameters.

An embedded model's experiment is about a hundred trainings: minutes on a GPU, hours on a CPU.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
