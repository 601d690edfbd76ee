"""Hierarchical sparse attention for PyTorch on CPUs.

Example:
    import hsattn
    o = hsattn.attention(q, k, v)             # q [B, H, n, d], k and v [B, Hkv, m, d]
    plan = hsattn.make_plan(q, k, top_k=256)  # what every position attends; data, to print, draw, measure, reuse
    o = hsattn.attention(q, k, v, plan=plan)
"""

import sys

# `python -m hsattn.prepare` reads archives for the program and needs neither torch nor the ops.
if "hsattn.prepare" not in sys.orig_argv:
    from hsattn._attention import Attention, attention, make_plan, preset
    from hsattn._baselines import attention_step, draw_features
    from hsattn._cache import Cache
    from hsattn._linformer import Linformer
    from hsattn._options import Budgets
    from hsattn._plan import Plan
    from hsattn._pooler import Pooled, Pooler, pool
    from hsattn._sequences import attention_packed, packed_sequences, padded_sequences, restarting_sequences

__all__ = [
    "Attention",
    "Budgets",
    "Cache",
    "Linformer",
    "Plan",
    "Pooled",
    "Pooler",
    "attention",
    "attention_packed",
    "attention_step",
    "draw_features",
    "make_plan",
    "packed_sequences",
    "padded_sequences",
    "pool",
    "preset",
    "restarting_sequences",
]
__version__ = "0.1.0"
