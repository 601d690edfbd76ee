"""Loads the compiled ops; registers what the stable ABI leaves to Python: shapes for tracing, and autograd."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from torch.autograd import forward_ad

from hsattn._options import Budgets


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

_COMPUTED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def computable(who: str, name: str, t: torch.Tensor) -> torch.Tensor:
    """`t` on a device and in a type that the kernels take; under autocast, in autocast's type, as for torch's SDPA."""
    if not isinstance(t, torch.Tensor):
        raise TypeError(f"{who}: {name} is of type {type(t).__name__}; it must be a tensor")
    if t.device.type not in ("cpu", "meta"):
        raise NotImplementedError(f"{who}: {name} is on {t.device}; only CPU tensors are supported")
    if t.dtype not in _COMPUTED:
        raise TypeError(f"{who}: {name} has type {t.dtype}; torch.float32, bfloat16, float16 and float64 are supported")
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(t).tangent is not None:
        raise NotImplementedError(f"{who}: {name} has a tangent; derivatives in forward mode (jvp) are not supported")
    if t.dtype != torch.float64 and torch.is_autocast_enabled("cpu"):
        return t.to(torch.get_autocast_dtype("cpu"))
    return t


def _shape_of_lists(q, k, pattern, budgets, sequences):
    shape = (q.shape[0], k.shape[1], q.shape[2], Budgets.of_numbers(budgets).slots(pattern))
    return shape if sequences is None else (math.prod(shape),)


def new_like(t, sequences):
    """An output like `t`: [batch, tokens, heads, dim] in memory where there are sequences."""
    batch, heads, tokens, dim = t.shape
    return t.new_empty(t.shape) if sequences is None else t.new_empty(batch, tokens, heads, dim).transpose(1, 2)


def new_lse(q):
    return q.new_empty(q.shape[:3], dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)


@torch.library.register_fake("hsattn::attention_forward")
def _(q, k, v, plan, pattern, causal, budgets, scale, keep_plan, sequences=None, pooled_k=None, pooled_v=None):
    keep = keep_plan and Budgets.of_numbers(budgets).slots(pattern) > 0
    lists = _shape_of_lists(q, k, pattern, budgets, sequences) if keep else (0,)
    if keep and plan is not None and sequences is not None:
        lists = plan.shape
    return new_like(q, sequences), new_lse(q), q.new_empty(lists, dtype=torch.int32)


@torch.library.register_fake("hsattn::attention_no_grad")
def _(q, k, v, plan, pattern, causal, budgets, scale, sequences=None, pooled_k=None, pooled_v=None):
    return new_like(q, sequences), new_lse(q)


@torch.library.register_fake("hsattn::attention_backward")
def _(dout, q, k, v, o, lse, kept, pattern, causal, budgets, scale, sequences=None, pooled_k=None, pooled_v=None):
    has_gradient = pooled_k is not None and Budgets.of_numbers(budgets).far_field
    dpooled = [q.new_empty(0) if not has_gradient else t.new_empty(t.shape) for t in (pooled_k, pooled_v)]
    return new_like(q, sequences), new_like(k, sequences), new_like(v, sequences), *dpooled


@torch.library.register_fake("hsattn::make_plan")
def _(q, k, pattern, causal, budgets, scale, sequences=None, pooled_k=None):
    return q.new_empty(_shape_of_lists(q, k, pattern, budgets, sequences), dtype=torch.int32)


def _node_type(t):
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def _levels(blocks):
    """Sizes of a pyramid's levels over so many blocks."""
    yield blocks
    while blocks > 1:
        blocks = -(-blocks // 2)
        yield blocks


@torch.library.register_fake("hsattn::pool_forward")
def _(k, v, parameters, pooling, block, sequences=None):
    batch, heads, tokens, dim = k.shape
    levels = list(_levels(-(-tokens // block)))
    nodes = sum(levels)
    if sequences is not None:  # most_pooled_nodes() of the library
        count = sequences.shape[0]
        nodes = 2 * ((tokens + count * (block - 1)) // block) + count * max(0, len(levels) - 2)
    return tuple(t.new_empty((batch, heads, nodes, dim), dtype=_node_type(k)) for t in (k, v))


@torch.library.register_fake("hsattn::pool_backward")
def _(dpooled_k, dpooled_v, k, v, parameters, pooling, block, sequences=None):
    return new_like(k, sequences), new_like(v, sequences), parameters.new_empty(parameters.shape)


@torch.library.register_fake("hsattn::initial_pooler")
def _(like, pooling):
    dim = like.shape[-1]
    rows = {"attention": 1, "learnable": 4, "attention_paper": 4 * dim + 2}[pooling]
    return like.new_empty((rows, dim), dtype=_node_type(like))


@torch.library.register_fake("hsattn::packed_sequences")
def _(first_queries, first_keys):
    return first_queries.new_empty((first_queries.shape[0] - 1, 5), dtype=torch.int64)


@torch.library.register_fake("hsattn::padded_sequences")
def _(mask, queries):
    return mask.new_empty((mask.shape[0], 5), dtype=torch.int64)


@torch.library.register_fake("hsattn::plan_map")
def _(plan, pattern, causal, budgets, sizes, batch, kv_head, first, count):
    return plan.new_empty((count, sizes[3]), dtype=torch.int8)


def _save(ctx, inputs, output):
    q, k, v, plan, pattern, causal, budgets, scale, _, sequences, pooled_k, pooled_v = inputs
    o, lse, kept = output
    ctx.options = (pattern, causal, budgets, scale)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(kept)
    ctx.save_for_backward(q, k, v, o, lse, kept if plan is None else plan, sequences, pooled_k, pooled_v)


def _backward(ctx, dout, dlse, _):
    q, k, v, o, lse, kept, sequences, pooled_k, pooled_v = ctx.saved_tensors
    options = (*ctx.options, sequences)
    dq = dk = dv = dpooled_k = dpooled_v = None
    if dout is not None:
        inputs = (dout, q, k, v, o, lse, kept, *options, pooled_k, pooled_v)
        dq, dk, dv, dpooled_k, dpooled_v = _below_autograd(ops.attention_backward, *inputs)
    if dlse is not None:
        of_lse = _backward_of_lse(dlse, q, k, lse, kept, *options, pooled_k)
        dq, dk, dpooled_k = (b if a is None else a + b for a, b in zip((dq, dk, dpooled_k), of_lse, strict=True))
    if pooled_k is None or not Budgets.of_numbers(ctx.options[2]).far_field:
        dpooled_k = dpooled_v = None
    return dq, dk, dv, *(None,) * 7, dpooled_k, dpooled_v


def _backward_of_lse(dlse, q, k, lse, kept, pattern, causal, budgets, scale, sequences, pooled_k):
    """dq, dk and dpooled_k of a loss that uses lse, by the same two ops with the keys in the place of the values.

    With P the attention weights, dq = scale dlse (P k), which is an output, and dk = scale P^T (dlse q), which is the
    gradient of values. dlse [batch, heads, n].
    """
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    given = q.dtype
    if given in (torch.bfloat16, torch.float16):
        q, k = q.float(), k.float()
    if kept.numel() == 0 and Budgets.of_numbers(budgets).slots(pattern) > 0:
        kept = ops.make_plan(q, k, pattern, causal, budgets, scale, sequences, pooled_k)
    nodes = (pooled_k, pooled_k)
    weight = scale * dlse.masked_fill(lse == -math.inf, 0.0).unsqueeze(-1)  # a row that sees nothing: lse is constant
    mean_key, _, _ = ops.attention_forward(q, k, k, kept, pattern, causal, budgets, scale, False, sequences, *nodes)
    rules = (pattern, causal, budgets, scale, sequences, *nodes)
    _, _, dk, _, dpooled_k = ops.attention_backward(weight * q, q, k, k, mean_key, lse, kept, *rules)
    return (weight * mean_key).to(given), dk.to(given), dpooled_k


def no_double_backward(ctx, *grads):
    raise NotImplementedError("hsattn: double backward (a gradient of a gradient of attention) is not supported")


torch.library.register_autograd("hsattn::attention_forward", _backward, setup_context=_save)
torch.library.register_autograd("hsattn::attention_backward", no_double_backward)


def transformed() -> bool:
    """Whether a call is made below torch.vmap() or its like, where tensors do not tell that they require gradients."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def _traced() -> bool:
    return torch.compiler.is_compiling() or transformed()


def _below_autograd(op, *inputs):
    """`op`, whose gradient nobody will ask for; torch's own way to the kernel of an op with a registered backward leads
    through Python."""
    if _traced() or torch.is_grad_enabled():
        return op(*inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*inputs)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        output = _below_autograd(ops.attention_forward, *inputs)
        _save(ctx, inputs, output)
        return output

    backward = staticmethod(_backward)


def attention_with_gradient(*inputs):
    """ops.attention_forward. The backward registered above serves whoever traces it; a call that runs at once takes
    this way to the same _save() and _backward(), which is shorter (`bench/python_calls.py`)."""
    return ops.attention_forward(*inputs) if _traced() else _Attention.apply(*inputs)


def _save_pool(ctx, inputs, output):
    k, v, parameters, ctx.pooling, ctx.block, sequences = inputs
    ctx.save_for_backward(k, v, parameters, sequences)


def _backward_pool(ctx, dpooled_k, dpooled_v):
    k, v, parameters, sequences = ctx.saved_tensors
    found = ops.pool_backward(dpooled_k, dpooled_v, k, v, parameters, ctx.pooling, ctx.block, sequences)
    return *found, None, None, None


torch.library.register_autograd("hsattn::pool_forward", _backward_pool, setup_context=_save_pool)
torch.library.register_autograd("hsattn::pool_backward", no_double_backward)
