"""Trains byte-level BPE with the `tokenizers` package."""

from __future__ import annotations

import os
from collections.abc import Iterable

from hsattn.prepare.archives import MissingPackageError

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPLITS = {"gpt2": None, "llama3": _LLAMA3, "qwen2": _LLAMA3.replace("{1,3}", "")}
END_OF_TEXT = "<|endoftext|>"


def train(texts: Iterable[str], vocabulary: int, split: str, out: str) -> None:
    """Writes a tokenizer.json with `vocabulary` tokens, all bytes and <|endoftext|> (token 0) among them."""
    try:
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
        from tokenizers.trainers import BpeTrainer
    except ImportError as error:
        raise MissingPackageError("tokenizers") from error
    tokenizer = Tokenizer(models.BPE())
    expression = SPLITS[split]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=expression is None)
    if expression is None:
        tokenizer.pre_tokenizer = byte_level
    else:
        cut = pre_tokenizers.Split(Regex(expression), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[END_OF_TEXT],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(out + ".part")
    os.replace(out + ".part", out)
