"""Figures of results: each function takes a Dataset and returns a Plotly figure.

Nothing here shows a figure, sets a template or computes a statistic that the patching room has. Drawing costs
milliseconds; PNG and PDF export (`save_figure`) needs a Chrome or Chromium and about half a second a picture.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
