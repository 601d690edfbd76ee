"""Tiny models of transformers with random weights, one of each family that the tests promise to run."""

from __future__ import annotations

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

VOCABULARY = 96
WINDOW = 24  # of the layers that slide
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.3,  # tokens must differ enough for greedy choices to be clear
    "tie_word_embeddings": False,  # or some families say the same token for ever
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
# Configuration class and what it takes besides _SIZES.
_FAMILIES = {
    "llama": ("LlamaConfig", {}),
    "smollm2": (
        "LlamaConfig",
        {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 144, "tie_word_embeddings": True},
    ),
    "qwen2": ("Qwen2Config", {}),
    "qwen2 sliding": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "qwen3": ("Qwen3Config", {"head_dim": 24}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "mistral sliding": ("MistralConfig", {"sliding_window": WINDOW}),
    "gemma": ("GemmaConfig", {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma2 uncapped": (
        "Gemma2Config",
        {"head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 16, "attn_logit_softcapping": None},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "head_dim": 16,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}
FAMILIES = list(_FAMILIES)
SLIDING = ["qwen2 sliding", "mistral sliding", "gemma2 uncapped", "gemma3"]


def tiny_config(family: str = "llama", **changes: object) -> PreTrainedConfig:
    name, own = _FAMILIES[family]
    return getattr(transformers, name)(**{**_SIZES, **own, **changes})


def tiny_model(family: str = "llama", attention: str = "hsattn", seed: int = 0, **changes: object) -> PreTrainedModel:
    """The same weights for the same family and seed, whatever the attention."""
    if family == "gemma2 uncapped" and attention == "sdpa":
        attention = "eager"  # transformers refuses sdpa for the whole family
    torch.manual_seed(seed)
    config = tiny_config(family, **changes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32).eval()
    for parameter in model.parameters():  # norms and biases too, which start as ones and zeros
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, parameter.detach().mean(), 0.1)
    return model


def tokens(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    """Random tokens; 0, which the tests use for padding, is none of them."""
    return torch.randint(1, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def padding_mask(lengths: tuple[int, ...], total: int, side: str) -> torch.Tensor:
    """[rows, total], 1 for the `length` real tokens of each row."""
    mask = torch.zeros(len(lengths), total, dtype=torch.int64)
    for row, length in enumerate(lengths):
        mask[row, total - length if side == "left" else 0 : total if side == "left" else length] = 1
    return mask
