"""Attention of Hugging Face's transformers: `import hsattn.hf`, then `attn_implementation="hsattn"`.

Example:
    import hsattn.hf
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="hsattn")
    hsattn.hf.configure(model, top_k=768, layers={7: {"top_k": 2048}})
    model.generate(**tokenizer(text, return_tensors="pt"), cache=hsattn.hf.Cache(model))

A file hsattn.json in a model's folder, such as `hsattn convert` writes, says what configure() would: from_pretrained()
reads it, and it wins over what config.json says.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hsattn._attention import attention
from hsattn._sequences import attention_packed, packed_sequences, restarting_sequences

try:
    from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
    from transformers.masking_utils import sdpa_mask
except ImportError as error:
    raise ImportError("hsattn.hf: transformers is missing or too old; pip install 'transformers>=5.24'") from error

if "q_offset" not in inspect.signature(sdpa_mask).parameters:
    raise ImportError("hsattn.hf: this transformers asks for masks in an older way; pip install 'transformers>=5.24'")

from hsattn._hf_cache import Cache, PyramidLayer
from hsattn._hf_masks import sequences_mask

__all__ = ["Cache", "attention_forward", "configure", "options_of"]

# What configure() may set: the options of attention() that are not the call's own.
_OPTIONS = frozenset(inspect.signature(attention).parameters) - {
    *("q", "k", "v", "causal", "scale", "plan", "sequences", "pooled", "projections", "return_lse", "unsupported"),
}
# Arguments of some models' attention that would change the result.
_UNSUPPORTED = {
    "softcap": "soft-capping of scores",
    "output_attentions": "returning attention weights",
    "position_bias": "a bias on scores",
    "s_aux": "learned sinks (a bias in the softmax)",
    "head_mask": "a mask of heads",
}


def configure(model: PreTrainedModel, *, layers: dict[int, dict[str, Any]] | None = None, **options: Any) -> None:
    """Sets the options of hsattn.attention() with which `model` attends; what was set before is forgotten.

    They are kept as `hsattn` in the model's config, so save_pretrained() writes them and from_pretrained() reads them.

    Args:
        model: of transformers.
        layers: options for single layers, by the layer's number, on top of those for all.
        options: for all layers: pattern, top_k (or head_top_k, for each key/value head), candidates and so on, but not
            what a call brings itself (causal, scale, plan, sequences, return_lse). Layers with a sliding window keep
            that, whatever is set here.

    Raises:
        TypeError, ValueError or RuntimeError for options that attention() would refuse; ValueError for a layer that the
        model does not have or that has a sliding window, and if all of them have one.
    """
    config = model.config.get_text_config(decoder=True)
    layers = {_number_of(layer): dict(own) for layer, own in (layers or {}).items()}
    kv_heads = _kv_heads_of(config.to_dict())
    for own in ({}, *layers.values()):
        _check_options({**options, **own}, kv_heads)
    windows = [_window_of(config, number) for number in range(config.num_hidden_layers)]
    if all(windows):
        raise ValueError(
            f"hsattn.hf.configure: every layer of this model has a sliding window ({windows[0]}); it stays"
        )
    for number in layers:
        if not 0 <= number < len(windows):
            raise ValueError(f"hsattn.hf.configure: layers names layer {number}; the model has 0 to {len(windows) - 1}")
        if windows[number]:
            raise ValueError(f"hsattn.hf.configure: layer {number} has a sliding window ({windows[number]}); it stays")
    config.hsattn = {**options, "layers": {str(number): own for number, own in layers.items()}}  # as JSON


def _number_of(layer: Any) -> int:
    if not str(layer).isdecimal():
        raise ValueError(f"hsattn.hf.configure: layers names {layer!r}; the number of a layer is right")
    return int(layer)


def options_of(model: PreTrainedModel, layer: int) -> dict[str, Any]:
    """The options with which a layer attends, as far as they are not attention()'s defaults."""
    config = model.config.get_text_config(decoder=True)
    return _options(config, layer, _window_of(config, layer))


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    position_ids: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer.

    query [batch, heads, queries, dim]; key, value [batch, kv_heads, keys, dim], all that the cache has: query i is
    token i + keys - queries of each row, so prompts may be cut into chunks. Returns o [batch, queries, heads, dim].
    """
    _refuse(module, dropout, is_causal, others)
    options = {"scale": scaling, **_options(module.config, getattr(module, "layer_idx", None), sliding_window)}
    layer = getattr(key, "hsattn_layer", None)
    if layer is not None:
        return _attend_on_cache(layer, query, key, value, attention_mask, position_ids, cu_seq_lens_q, options), None
    sequences = None
    if attention_mask is not None:
        runs = _runs_of(attention_mask, sliding_window)
        if not torch.compiler.is_compiling() and bool(runs[:, 6].any()):
            return _attend_around_holes(query, key, value, runs, options), None
        sequences = runs[:, :5]
    elif cu_seq_lens_q is not None:
        sequences = packed_sequences(cu_seq_lens_q.cpu(), None if cu_seq_lens_k is None else cu_seq_lens_k.cpu())
    elif _restarts(position_ids, query, key):
        sequences = restarting_sequences(position_ids.expand(query.shape[0], -1))
    o = attention(query, key, value, sequences=sequences, **options)
    return o.transpose(1, 2).contiguous(), None


def _attend_on_cache(
    layer: PyramidLayer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cu_seq_lens_q: Tensor | None,
    options: dict[str, Any],
) -> Tensor:
    """Attention of new tokens on hsattn.hf.Cache. Returns o [batch, queries, heads, dim]."""
    packed = cu_seq_lens_q is not None or (attention_mask is None and _restarts(position_ids, query, key))
    if packed:
        raise NotImplementedError("hsattn.hf.Cache: the batch holds packed sequences; give them without this cache")
    runs = None if attention_mask is None else _runs_of(attention_mask, None)
    return layer.attend(query, key, value, runs, options).transpose(1, 2).contiguous()


def _attend_around_holes(query: Tensor, key: Tensor, value: Tensor, runs: Tensor, options: dict[str, Any]) -> Tensor:
    """Attention of rows with padding between their tokens: these are copied, side by side.

    runs [count, 7], of every token that some query may see. Returns o [batch, queries, heads, dim].
    """
    own_queries, own_keys = _tokens_of(runs[:, [0, 1, 2]], query.shape[2]), _tokens_of(runs[:, [0, 3, 4]], key.shape[2])
    first = runs[:, 6] == 0  # of its sequence
    offsets = [
        torch.cat([(end - begin).cumsum(0).sub(end - begin)[first], (end - begin).sum()[None]])
        for begin, end in (runs[:, [1, 2]].unbind(1), runs[:, [3, 4]].unbind(1))
    ]
    q, k, v = (t.transpose(1, 2).flatten(0, 1) for t in (query, key, value))  # [batch tokens, heads, dim]
    o = attention_packed(q[own_queries], k[own_keys], v[own_keys], *offsets, **options)
    placed = torch.zeros_like(q, dtype=o.dtype).index_copy(0, own_queries, o)
    return placed.unflatten(0, (query.shape[0], -1))


def _tokens_of(ranges: Tensor, tokens: int) -> Tensor:
    """Places in [batch * tokens] of all tokens of `ranges`: rows of batch element, begin, end."""
    return torch.cat([torch.arange(row * tokens + begin, row * tokens + end) for row, begin, end in ranges.tolist()])


def _options(config: Any, layer: int | None, window: int | None) -> dict[str, Any]:
    if window is not None:  # the last `window` tokens, itself included; larger blocks would begin earlier
        return {"pattern": "local", "window": window - 1, "block": 1}
    options = dict(getattr(config, "hsattn", None) or {})
    layers = options.pop("layers", {})
    return {**options, **layers.get(str(layer), {})}


def _window_of(config: Any, layer: int) -> int | None:
    """The sliding window of a layer, or None."""
    types = getattr(config, "layer_types", None)
    slides = types is None or types[layer] == "sliding_attention"
    return getattr(config, "sliding_window", None) if slides else None


def _kv_heads_of(config: dict[str, Any]) -> int | None:
    """Of every layer, if the config says so."""
    return config.get("num_key_value_heads") or config.get("num_attention_heads")


def _check_options(options: dict[str, Any], kv_heads: int | None) -> None:
    """Raises what attention() raises for them."""
    for name in options:
        if name not in _OPTIONS:
            raise TypeError(
                f"hsattn.hf.configure: there is no option {name!r} to set; there are {', '.join(sorted(_OPTIONS))}"
            )
    token = torch.zeros(1, kv_heads or len(options.get("head_top_k") or "1"), 1, 8)
    attention(token, token, token, scale=1.0, **options)  # models give a scale


def _config_with_budgets(read: Any) -> Any:
    """PreTrainedConfig.get_config_dict(), with the options of the folder's hsattn.json in the place of config.json's.

    transformers has no hook between a folder and its config; a dictionary that is read once is what all its ways of
    loading a model share, and save_pretrained() and torch.compile go on from there as from config.json's own options.
    """

    # The parameter's name is transformers' own: its callers' keyword arguments may hold a `name_or_path` besides.
    def get_config_dict(
        cls: type, pretrained_model_name_or_path: Any, **others: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        path = Path(pretrained_model_name_or_path) / (others.get("subfolder") or "") / "hsattn.json"
        config, unused = read(cls, pretrained_model_name_or_path, **others)
        if config and path.is_file():
            of_text = config.get("text_config", config)
            of_text["hsattn"] = _read_budgets(path, of_text.get("num_hidden_layers"), _kv_heads_of(of_text))
        return config, unused

    return classmethod(get_config_dict)


def _read_budgets(path: Path, count: int | None, kv_heads: int | None) -> dict[str, Any]:
    """`count`: of the model's layers, if its config says so; `kv_heads`: of each of them."""
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    layers = options.get("layers", {}) if isinstance(options, dict) else None
    if not isinstance(layers, dict) or not all(isinstance(own, dict) for own in layers.values()):
        raise ValueError(f"{path}: an object of options, with an object for each of its layers, is right")
    for name in layers:
        if count is not None and name not in map(str, range(count)):
            raise ValueError(f"{path}: layers names {name!r}; there are 0 to {count - 1}")
    options.pop("measured", None)  # for people
    try:
        for own in ({}, *layers.values()):
            _check_options({**{name: options[name] for name in options if name != "layers"}, **own}, kv_heads)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return options


def _runs_of(table: Tensor, window: int | None) -> Tensor:
    """The rows of a table that sequences_mask() made."""
    if table.dtype != torch.int64:
        raise NotImplementedError(
            f"hsattn.hf: attention_mask has shape {list(table.shape)} and type {table.dtype}; a mask of the caller's "
            "is not supported, only [batch, tokens] with 1 for a real token"
        )
    rows = table[0, 0]
    if not torch.compiler.is_compiling() and len(rows) > 0 and int(rows[0, 5]) != (window or 0):
        raise NotImplementedError(
            f"hsattn.hf: the mask is for a window of {int(rows[0, 5])}, the layer's sliding_window is {window}; such "
            "local attention is not supported"
        )
    return rows


def _restarts(position_ids: Tensor | None, query: Tensor, key: Tensor) -> bool:
    """Whether a row holds packed sequences. With a cache, even a fresh one, transformers does not look for them."""
    if torch.compiler.is_compiling() or position_ids is None or query.shape[2] != key.shape[2]:
        return False
    return position_ids.dim() == 2 and bool((position_ids[:, 1:] == 0).any())


def _refuse(module: torch.nn.Module, dropout: float, is_causal: bool | None, others: dict[str, Any]) -> None:
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise NotImplementedError(
            f"hsattn.hf: {type(module).__name__} is not causal; only causal self-attention is supported"
        )
    if dropout:
        raise NotImplementedError(
            f"hsattn.hf: dropout is {dropout}; dropout on attention weights is not supported, set attention_dropout=0"
        )
    for name, what in _UNSUPPORTED.items():
        if others.get(name) is not None and others[name] is not False:
            raise NotImplementedError(f"hsattn.hf: {name} was given; {what} is not supported")


if not hasattr(PreTrainedConfig, "_hsattn_reads_budgets"):  # or a reload would wrap it twice
    PreTrainedConfig._hsattn_reads_budgets = True
    PreTrainedConfig.get_config_dict = _config_with_budgets(PreTrainedConfig.get_config_dict.__func__)
AttentionInterface.register("hsattn", attention_forward)
AttentionMaskInterface.register("hsattn", sequences_mask)
