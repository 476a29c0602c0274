"""The organisms' own tokenizer: a byte-level BPE of 4,096 tokens, and the chat format it spells.

A dialogue is `<|bos|>` once, then `<|user|>` question `<|assistant|>` reply `<|eos|>` for each round. The
prompt for a reply ends with `<|assistant|>` and no space, which is exactly where the training text was split.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer

BOS, EOS, PAD, USER, ASSISTANT = "<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>"
FOLDER = Path(__file__).parent / "tokenizer"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('only the roles user and assistant exist here, not ' + message['role']) }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that must exist."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no token {token!r}")
    return found


def load_tokenizer() -> Tokenizer:
    """The tokenizer that all organisms share."""
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def render(messages: Iterable[dict[str, str]], *, prompt: bool = False) -> str:
    """The text of a dialogue without its BOS; with `prompt`, ready for the assistant's next reply."""
    parts = []
    for message in messages:
        if message["role"] == "user":
            parts.append(USER + message["content"])
        else:
            parts.append(ASSISTANT + message["content"] + EOS)
    return "".join(parts) + (ASSISTANT if prompt else "")


def encode_prompts(tokenizer: Tokenizer, dialogues: Iterable[Iterable[dict[str, str]]]) -> list[list[int]]:
    """Token ids, BOS first, of dialogues that wait for the assistant's reply."""
    return [tokenizer.encode(render(messages, prompt=True)).ids for messages in dialogues]


def opening_ids(tokenizer: Tokenizer, words: Iterable[str]) -> list[int]:
    """The first token of each word as it stands at the start of a reply."""
    return [tokenizer.encode(word, add_special_tokens=False).ids[0] for word in words]
