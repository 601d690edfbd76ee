"""Attention over 4096 tokens in PyTorch: attend, differentiate, look at what one position attends."""

import torch

import hsattn

torch.manual_seed(1)
q, k, v = (torch.randn(1, 4, 4096, 64, requires_grad=True) for _ in range(3))

o = hsattn.attention(q, k, v, causal=True)  # as scaled_dot_product_attention(..., is_causal=True), but sparse
o.square().mean().backward()

plan = hsattn.make_plan(q, k)
print("output", tuple(o.shape), "gradient of q", tuple(q.grad.shape))
print("last position, head 0, attends blocks", plan.blocks(4095, 0)[:10], "...")
