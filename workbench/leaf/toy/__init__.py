"""A toy task whose confounding tokens are known: LeaF from end to end in minutes on two cores.

`problems` draws sums modulo 7 with a planted distractor, `school` trains a teacher or a misled student, `model` loads
one that comes with the package, `run` measures whole regimes (`workbench leaf toy`), and `measured` is the record of
that which comes with the package.
"""

import lazy_loader

from workbench.deprecated import with_old_names

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = with_old_names(__name__, __getattr__)
