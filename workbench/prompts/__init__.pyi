from .pairs import PromptPairs as PromptPairs
from .templates import Message as Message
from .templates import accepts_system as accepts_system
from .templates import encode as encode
from .templates import render as render
from .texts import token_sequences as token_sequences
