"""The layer that holds linformer's projections."""

from __future__ import annotations

import torch
from torch import Tensor

from hsattn._attention import attention


class Linformer(torch.nn.Module):
    """attention(pattern="linformer") with its projections, learned, as a layer: `Linformer(longest=4096)(q, k, v)`.

    Args:
        longest: tokens of the longest sequence; a longer one is refused.
        rank: rows that the keys, or in causal form each segment of them, are projected to.
        segment: tokens of a segment of the causal form.
        causal: as in attention().
        share: keys and values have one projection (the paper's "key-value sharing"); give the same layer to several
            places of a model to share across layers.
    """

    def __init__(
        self, longest: int, *, rank: int = 8, segment: int = 256, causal: bool = True, share: bool = False
    ) -> None:
        super().__init__()
        for name, value in (("longest", longest), ("rank", rank), ("segment", segment)):
            if value < 1:
                raise ValueError(f"hsattn.Linformer: {name} is {value}; at least 1 is right")
        self.segment, self.causal = segment, causal
        deviation = (min(segment, longest) if causal else longest) ** -0.5
        self.project_keys = torch.nn.Parameter(deviation * torch.randn(rank, longest))
        self.project_values = self.project_keys if share else torch.nn.Parameter(deviation * torch.randn(rank, longest))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, sequences: Tensor | None = None) -> Tensor:
        projections = (self.project_keys, self.project_values)
        options = {"segment": self.segment, "causal": self.causal, "sequences": sequences}
        return attention(q, k, v, pattern="linformer", projections=projections, **options)

    def extra_repr(self) -> str:
        rank, longest = self.project_keys.shape
        return f"longest={longest}, rank={rank}, segment={self.segment}, causal={self.causal}"
