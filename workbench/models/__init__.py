"""Models: load any source as one hooked model; the only place that handles the differences between kinds of model.

`load.load` turns an embedded model's name, a folder, a Hub id or a model in memory into a TransformerLens model;
`anatomy.anatomy` describes it and recomputes its parts, `exact` proves that they add up to the model,
`forward` runs it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
