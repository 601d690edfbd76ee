"""Hierarchical sparse attention for PyTorch on CPUs.

Example:
    import hsattn
    o = hsattn.attention(q, k, v)             # q [B, H, n, d], k and v [B, Hkv, m, d]
    plan = hsattn.make_plan(q, k, top_k=256)  # what every position attends; data, to print, draw, measure, reuse
    o = hsattn.attention(q, k, v, plan=plan)
"""

from hsattn._attention import Attention, attention, make_plan
from hsattn._options import Budgets
from hsattn._plan import Plan
from hsattn._pooler import Pooled, Pooler, pool
from hsattn._sequences import attention_packed, packed_sequences, padded_sequences, restarting_sequences

__all__ = [
    "Attention",
    "Budgets",
    "Plan",
    "Pooled",
    "Pooler",
    "attention",
    "attention_packed",
    "make_plan",
    "packed_sequences",
    "padded_sequences",
    "pool",
    "restarting_sequences",
]
__version__ = "0.1.0"
