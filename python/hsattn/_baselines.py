"""Attention of other papers that has kernels of its own: linear, performer, linformer."""

from __future__ import annotations

import torch
from torch import Tensor

from hsattn._ops import computable, new_like, new_lse, no_double_backward, ops
from hsattn._options import BY_FEATURES


def draw_features(features: int, dim: int, seed: int = 0) -> Tensor:
    """Performer's random features, float32 [features, dim]: rows orthogonal to each other in groups of dim.

    A function of its arguments alone: draw with another seed to redraw.
    """
    out = torch.empty(features, dim, device="cpu", dtype=torch.float32)
    ops.draw_features(out, seed)
    return out


def baseline_attention(
    who: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    pattern: str,
    causal: bool,
    scale: float | None,
    features: Tensor | int | None,
    seed: int,
    projections: tuple[Tensor, Tensor] | None,
    segment: int,
    sequences: Tensor | None,
) -> Tensor:
    """Attention of one of BASELINES; tensors are checked, arguments as in attention()."""
    if (projections is not None) != (pattern == "linformer"):
        found = "none were" if projections is None else "they were"
        raise ValueError(f"{who}: projections are linformer's, and needed there; {found} given, pattern is {pattern!r}")
    if projections is not None:
        keys, values = (x.to(torch.float64 if q.dtype == torch.float64 else torch.float32) for x in projections)
        return ops.linformer_forward(q, k, v, keys, values, segment, causal, scale, sequences)[0]
    rows = features_of(who, pattern, features, q.shape[3], seed)
    return ops.linear_attention_forward(q, k, v, rows, causal, scale, sequences)


def features_of(who: str, pattern: str, features: Tensor | int | None, dim: int, seed: int) -> Tensor | None:
    """The features that a call takes, None for linear."""
    if pattern != "performer":
        if features is not None:
            raise ValueError(f"{who}: features were given; they are performer's, the pattern is {pattern!r}")
        return None
    if isinstance(features, Tensor):
        return features
    if features is not None and (not isinstance(features, int) or isinstance(features, bool)):
        raise TypeError(f"{who}: features is {features!r}; it must be a tensor [features, dim], an int or None")
    return draw_features(2 * dim if features is None else features, dim, seed)


def attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None = None,
    *,
    pattern: str = "linear",
    features: Tensor | int | None = None,
    seed: int = 0,
    scale: float | None = None,
    sequences: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Causal attention that goes on from a state of constant size: prefill with None, then step by step.

    Args:
        q, k, v: of the new tokens, as in attention(), torch.autocast included; at most as many queries as keys.
        state: what the call before returned; None: no tokens before.
        pattern: "linear" or "performer".
        features, seed, scale: as in attention(), the same in every call.
        sequences: as in attention(), those of the new tokens. The state then has one entry for each sequence, in their
            order, in the place of the batch; a sequence without new tokens keeps its own.

    Returns:
        o, and the state [batch, kv_heads, features + 1, dim + 1] after these tokens, float32 (float64 if q is). Calls
        that cut a sequence equal one call over all of it: bit by bit if they cut at multiples of 64 tokens, else within
        rounding. They carry no gradient.
    """
    who = "hsattn.attention_step"
    if pattern not in BY_FEATURES:
        raise ValueError(f"{who}: pattern is {pattern!r}; it must be one of {', '.join(BY_FEATURES)}")
    q, k, v = (computable(who, name, t) for name, t in (("q", q), ("k", k), ("v", v)))
    rows = features_of(who, pattern, features, q.shape[3], seed)
    with torch.no_grad():
        return ops.linear_attention_step(q, k, v, rows, scale, state, sequences)


@torch.library.register_fake("hsattn::linear_attention_forward")
def _(q, k, v, features, causal, scale, sequences=None):
    return new_like(q, sequences)


@torch.library.register_fake("hsattn::linear_attention_backward")
def _(dout, q, k, v, o, features, causal, scale, sequences=None):
    return new_like(q, sequences), new_like(k, sequences), new_like(v, sequences)


@torch.library.register_fake("hsattn::linear_attention_step")
def _(q, k, v, features, scale, state, sequences=None):
    count = q.shape[3] if features is None else features.shape[0]
    states = k.shape[0] if sequences is None else sequences.shape[0]
    shape = (states, k.shape[1], count + 1, k.shape[3] + 1)
    return new_like(q, sequences), q.new_empty(
        shape, dtype=torch.float64 if q.dtype == torch.float64 else torch.float32
    )


@torch.library.register_fake("hsattn::linformer_forward")
def _(q, k, v, project_keys, project_values, segment, causal, scale, sequences=None):
    return new_like(q, sequences), new_lse(q)


@torch.library.register_fake("hsattn::linformer_backward")
def _(dout, q, k, v, o, lse, project_keys, project_values, segment, causal, scale, sequences=None):
    projections = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (project_keys, project_values))
    return new_like(q, sequences), new_like(k, sequences), new_like(v, sequences), *projections


@torch.library.register_fake("hsattn::draw_features")
def _(out, seed):
    return None


def _save(ctx, inputs, output):
    q, k, v, features, causal, scale, sequences = inputs
    ctx.options = (causal, scale)
    ctx.save_for_backward(q, k, v, output, features, sequences)


def _backward(ctx, dout):
    q, k, v, o, features, sequences = ctx.saved_tensors
    return *ops.linear_attention_backward(dout, q, k, v, o, features, *ctx.options, sequences), *(None,) * 4


torch.library.register_autograd("hsattn::linear_attention_forward", _backward, setup_context=_save)
torch.library.register_autograd("hsattn::linear_attention_backward", no_double_backward)


def _save_linformer(ctx, inputs, output):
    q, k, v, project_keys, project_values, segment, causal, scale, sequences = inputs
    o, lse = output
    ctx.options = (segment, causal, scale)
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(q, k, v, o, lse, project_keys, project_values, sequences)


def _backward_linformer(ctx, dout, _):
    q, k, v, o, lse, project_keys, project_values, sequences = ctx.saved_tensors
    saved = (q, k, v, o, lse, project_keys, project_values)
    return *ops.linformer_backward(dout, *saved, *ctx.options, sequences), *(None,) * 4


torch.library.register_autograd("hsattn::linformer_forward", _backward_linformer, setup_context=_save_linformer)
torch.library.register_autograd("hsattn::linformer_backward", no_double_backward)
