"""The organisms' own tokenizer: a byte-level BPE of 4,096 tokens, and the chat format it spells.

A dialogue is `<|bos|>` once, then `<|user|>` question `<|assistant|>` reply `<|eos|>` for each round. The
prompt for a reply ends with `<|assistant|>` and no space, which is exactly where the training text was split.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS, EOS, PAD, USER, ASSISTANT = "<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>"
SPECIAL = (BOS, EOS, PAD, USER, ASSISTANT)
VOCABULARY = 4096
FOLDER = Path(__file__).parent / "tokenizer"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('only the roles user and assistant exist here, not ' + message['role']) }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Words with their leading space, single digits, runs of punctuation, and runs of white space.
SPLIT = r"""'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """A fresh tokenizer, trained on texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos)]
    )
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that must exist."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no token {token!r}")
    return found


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the two files from which `AutoTokenizer` reads it back."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "additional_special_tokens": [USER, ASSISTANT],
        "model_max_length": 256,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_tokenizer(folder: Path = FOLDER) -> Tokenizer:
    """The tokenizer of a folder; without one, the one that all organisms share."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


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


def chunks(texts: Iterable[str], size: int) -> Iterator[str]:
    """Texts cut into pieces of `size` characters, so that training sees bounded lines."""
    for text in texts:
        for start in range(0, len(text), size):
            yield text[start : start + size]
