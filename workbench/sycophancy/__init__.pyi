from .circuits import circuit as circuit
from .dialogues import pairs as pairs
