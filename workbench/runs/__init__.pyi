from .results import open_result as open_result
from .results import provenance as provenance
from .results import save_result as save_result
from .run import Run as Run
