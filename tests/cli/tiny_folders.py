"""Folders of tiny pretrained models with a tokenizer of bytes, and what transformers makes of them."""

import json
import random
import sys

import pytest
from built_program import ROOT

sys.path.append(str(ROOT / "tests" / "python"))  # tiny_models.py is shared with the Python package's tests

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("safetensors")
from safetensors.torch import load_file  # noqa: E402
from tiny_models import tiny_model  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

VOCABULARY = 260  # 256 bytes and four special tokens
BEGIN, END = 256, 257
SPECIAL = ["<begin>", "<end>", "<|im_start|>", "<|im_end|>"]
FAMILIES = ["llama", "smollm2", "qwen2", "qwen2 sliding", "qwen3", "mistral", "mistral sliding"]
LENGTH = 200


def write_tokenizer(folder, with_template=False):
    """Each byte is a token; with_template puts <begin> before a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    if with_template:
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(),
                processors.TemplateProcessing(single="<begin> $A", special_tokens=[("<begin>", BEGIN)]),
            ]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def make_folder(folder, family="llama", *, dtype=None, shard_size=None, config=None, with_template=False, **changes):
    """Saves a tiny model and its tokenizer; returns the model as it was saved. `config` changes the file afterwards."""
    model = tiny_model(family, "sdpa", vocab_size=VOCABULARY, **changes)
    if dtype is not None:
        model = model.to(dtype)
    model.save_pretrained(folder, **({} if shard_size is None else {"max_shard_size": shard_size}))
    write_tokenizer(folder, with_template)
    if config is not None:
        path = folder / "config.json"
        found = json.loads(path.read_text())
        path.write_text(json.dumps(config(found) or found))
    return model if dtype is None else load(folder)


def load(folder, dtype=torch.float32):
    # Not model.to(dtype), which would round the rotary frequencies, too.
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def random_text(length=LENGTH, seed=3):
    return "".join(random.Random(seed).choices("abcdefghij klmno\nPQR 0123", k=length))


def logits_of_program(hsattn, folder, tmp_path, *options, length=LENGTH, text=None):
    """[length, vocabulary] of the text, or a random one, and its tokens."""
    (tmp_path / "text.txt").write_text(text or random_text(length))
    out = tmp_path / "logits.safetensors"
    arguments = ["--text", tmp_path / "text.txt", "--context", length, "--logits", out, "--threads", 1]
    done = hsattn("eval", "--model", folder, *arguments, *("--precision", "float32", *options))
    assert done.returncode == 0, done.stderr
    found = load_file(out)
    return found["logits"], found["tokens"]


def logits_of_transformers(model, tokens):
    with torch.no_grad():
        return model(tokens[None]).logits[0].float()
