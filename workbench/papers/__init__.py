"""Which figures and tables of a paper can be drawn again? Named recipes, such as "sycophancy/layer-sums".

A recipe measures one or more models and gives a figure, the numbers in it and one sentence about them. `recipe(name)`
finds one; `FIGURES` lists their titles. Measuring the embedded models takes a minute or two.
"""

import lazy_loader as _lazy

from workbench.deprecated import with_old_names as _with_old_names

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
__getattr__ = _with_old_names(__name__, __getattr__)
