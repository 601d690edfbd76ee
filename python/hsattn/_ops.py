"""Loads the compiled ops; registers what the stable ABI leaves to Python: shapes for tracing, and autograd."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from hsattn._options import Budgets

_MOST_DIM = 256  # largest head dimension of the library


def _library() -> Path:
    """The ops' library: beside this file, or the one that HSATTN_OPS_LIBRARY names (a build tree's)."""
    named = os.environ.get("HSATTN_OPS_LIBRARY")
    path = Path(named) if named else Path(__file__).with_name("_hsattn_torch.so")
    if not path.is_file():
        raise ImportError(
            f"hsattn: {path} is missing; install the package (pip install .) or set HSATTN_OPS_LIBRARY "
            "to _hsattn_torch.so of a build made with -DHSATTN_TORCH_OPS=ON"
        )
    return path


torch.ops.load_library(str(_library()))
ops = torch.ops.hsattn


@torch.library.register_fake("hsattn::attention_forward")
def _(q, k, v, plan, pattern, causal, budgets, scale, keep_plan):
    slots = Budgets(*budgets).slots(pattern)
    lists = (q.shape[0], k.shape[1], q.shape[2], slots) if keep_plan and slots > 0 else (0,)
    return q.new_empty(q.shape), q.new_empty(q.shape[:3]), q.new_empty(lists, dtype=torch.int32)


@torch.library.register_fake("hsattn::attention_backward")
def _(dout, q, k, v, o, lse, kept, pattern, causal, budgets, scale):
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


@torch.library.register_fake("hsattn::make_plan")
def _(q, k, pattern, causal, budgets, scale):
    lists = (q.shape[0], k.shape[1], q.shape[2], Budgets(*budgets).slots(pattern))
    return q.new_empty(lists, dtype=torch.int32)


@torch.library.register_fake("hsattn::plan_map")
def _(plan, pattern, causal, budgets, sizes, batch, kv_head, first, count):
    return plan.new_empty((count, sizes[3]), dtype=torch.int8)


def _save(ctx, inputs, output):
    q, k, v, plan, pattern, causal, budgets, scale, _ = inputs
    o, lse, kept = output
    ctx.options = (pattern, causal, budgets, scale)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(kept)
    ctx.save_for_backward(q, k, v, o, lse, kept if plan is None else plan)


def _backward(ctx, dout, dlse, _):
    q, k, v, o, lse, kept = ctx.saved_tensors
    pattern, causal, budgets, scale = ctx.options
    if dout is None and dlse is None:
        return (None,) * 9
    if dout is None:
        dout = torch.zeros_like(o)
    if dlse is None:
        grads = ops.attention_backward(dout, q, k, v, o, lse, kept, pattern, causal, budgets, scale)
    else:
        grads = _backward_with_lse(dout, dlse, q, k, v, o, lse, kept, pattern, causal, budgets, scale)
    return (*grads, *(None,) * 6)


def _backward_with_lse(dout, dlse, q, k, v, o, lse, kept, pattern, causal, budgets, scale):
    """Gradients where a loss uses lse too, by the same op on a longer head dimension.

    With P the attention weights, dS = P (dout.v - dout.o + dlse). Columns [dlse, 0...] beside dout, [1, 0...] beside v and
    zeros beside the rest make the op's dout.v into dout.v + dlse and change nothing else.
    """
    dim = q.shape[3]
    if dim == _MOST_DIM:
        raise NotImplementedError(f"hsattn: a gradient through lse needs a head dimension below {_MOST_DIM}")
    if kept.numel() == 0 and Budgets(*budgets).slots(pattern) > 0:
        kept = ops.make_plan(q, k, pattern, causal, budgets, scale)
    extra = min(8, _MOST_DIM - dim)

    def widen(t, first=None):
        t = torch.nn.functional.pad(t, (0, extra))
        if first is not None:
            t[..., dim] = first
        return t

    scale = 1 / math.sqrt(dim) if scale is None else scale
    wide = (widen(dout, dlse), widen(q), widen(k), widen(v, 1.0), widen(o), lse, kept)
    grads = ops.attention_backward(*wide, pattern, causal, budgets, scale)
    return tuple(g[..., :dim] for g in grads)


def _no_double_backward(ctx, *grads):
    raise NotImplementedError("hsattn: double backward (a gradient of a gradient of attention) is not supported")


torch.library.register_autograd("hsattn::attention_forward", _backward, setup_context=_save)
torch.library.register_autograd("hsattn::attention_backward", _no_double_backward)
