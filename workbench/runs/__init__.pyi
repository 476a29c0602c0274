from .results import Journal as Journal
from .results import load as load
from .results import provenance as provenance
from .results import save as save
