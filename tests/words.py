"""A tokenizer of whole words, small enough for the tiny models, in the variants that decide about BOS."""

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = "the cat dog sat ran on a mat yes no sorry I apologize you are right wrong sure user assistant : ?"
CHAT = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def word_tokenizer(bos: int = 1, template: str | None = None, extra: int = 0, begin: bool = True, end: bool = False):
    """A tokenizer in memory.

    Args:
        bos: how many BOS tokens it puts before a text.
        template: a chat template.
        extra: further words `w0`, `w1`, … at the end of the vocabulary.
        begin: whether it has a BOS token at all.
        end: whether it puts EOS behind a text.
    """
    words = ["<pad>", "<s>", "</s>", "<unk>", *WORDS.split(), *(f"w{i}" for i in range(extra))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos or end:
        inner.post_processor = processors.TemplateProcessing(
            single=" ".join(["<s>"] * bos + ["$A"] + ["</s>"] * end), special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>" if begin else None,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    tokenizer.chat_template = template
    return tokenizer
