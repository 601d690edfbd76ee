"""A cache for transformers' generate() whose layers keep the key pyramid between steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from hsattn._attention import computable
from hsattn._cache import Cache as LayerCache

_WHO = "hsattn.hf.Cache"


class Cache(DynamicCache):
    """Keys, values and growing pyramids: `model.generate(**prompt, cache=hsattn.hf.Cache(model))`.

    A step costs what its search and its lists cost, whatever the length, where with transformers' own cache the pyramid
    of all keys is built again. Tokens are the same. Rows may be padded on the left; beams, prompt lookup, assisted
    generation and chunked prefill work. Layers with a sliding window keep transformers' own cache. A new one for each
    text.

    Raises:
        ValueError if the model attends with something else than hsattn.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config(decoder=True)
        if config._attn_implementation != "hsattn":
            raise ValueError(
                f"{_WHO}: the model's attention is {config._attn_implementation!r}; load it with "
                "attn_implementation='hsattn'"
            )
        super().__init__(config=config)
        self.layers = [PyramidLayer() if type(layer) is DynamicLayer else layer for layer in self.layers]

    @property
    def nbytes(self) -> int:
        """Memory of the pages of all layers but those with a sliding window."""
        return sum(layer.nbytes for layer in self.layers if isinstance(layer, PyramidLayer))


class PyramidLayer(DynamicLayer):
    """One layer. update() hands the new tokens on, marked, and attention_forward() of hsattn.hf appends and attends
    them here, as only it knows which of them are padding."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self._cache: LayerCache | None = None
        self._length = 0  # of each row, padding included
        self._padding: list[int] = []  # before each row's tokens
        self._waits = False  # for tokens of the last update() to be attended
        self.is_initialized = False

    @property
    def nbytes(self) -> int:
        return 0 if self._cache is None else self._cache.nbytes

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.device = key_states.device
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self._length

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self._waits:
            raise RuntimeError(f"{_WHO}: the last tokens were not attended; the model must attend with hsattn")
        self.lazy_initialization(key_states, value_states)
        self._length += key_states.shape[2]
        self._waits = True
        marked = key_states.view_as(key_states)
        marked.hsattn_layer = self
        return marked, value_states

    def attend(self, query: Tensor, key: Tensor, value: Tensor, runs: Tensor | None, options: dict[str, Any]) -> Tensor:
        """Appends keys and values [batch, kv_heads, n, dim] and attends them; o [batch, heads, n, dim].

        runs: rows of the table of _hf_masks.py, or None if all tokens are real.
        """
        self._waits = False
        batch, _, count, _ = query.shape
        options = dict(options)
        scale = options.pop("scale", None)
        if self._cache is None:
            dtype = computable(_WHO, "key", key).dtype
            self._cache = LayerCache(key.shape[1], key.shape[3], sequences=batch, dtype=dtype, **options)
            self._padding = [0] * batch
        first = [0] * batch if runs is None else self._first_real_tokens(runs, batch, count)
        if not any(first):
            self._cache.append(key, value)
            return self._cache.attend(query, scale=scale, **options)
        o = torch.zeros_like(query, dtype=self._cache.dtype)
        for row, begin in enumerate(first):
            if begin == count:
                continue
            k, v, q = (t[row : row + 1, :, begin:] for t in (key, value, query))
            self._cache.append(k, v, row)
            o[row : row + 1, :, begin:] = self._cache.attend(q, [row], scale=scale, **options)
        return o

    def _first_real_tokens(self, runs: Tensor, batch: int, count: int) -> list[int]:
        """Of each row, among the new ones. Padding may lie before a row's first token only."""
        before = self._length - count
        had = self._cache.lengths
        starts = [self._length] * batch
        for row, _, _, begin, after, _, goes_on in runs.tolist():
            right = starts[row] == self._length and after == self._length and not goes_on
            if not right or (had[row] > 0 and begin != self._padding[row]):
                raise NotImplementedError(
                    f"{_WHO}: row {row} has real tokens from {begin} to {after} of {self._length}; a row must be one "
                    "sequence that ends with the last token (to generate, pad with padding_side='left')"
                )
            starts[row] = begin
        for row, start in enumerate(starts):
            if had[row] > 0 and start == self._length:
                raise NotImplementedError(f"{_WHO}: row {row} ends with padding; pad with padding_side='left'")
        self._padding = starts
        return [max(0, start - before) for start in starts]

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove > 0:
            raise ValueError(f"{_WHO}: crop takes {tokens_to_remove} tokens; a negative number of them is right")
        if self._cache is None:
            return
        self._length = max(0, self._length + tokens_to_remove)
        for row, padding in enumerate(self._padding):
            had = self._cache.lengths[row]
            self._cache.crop(min(had, max(0, self._length - padding)), row)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        if self._cache is None:
            return
        parents = beam_idx.tolist()
        self._cache.reorder(parents)
        self._padding = [self._padding[parent] for parent in parents]

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.reorder_cache(torch.arange(len(self._padding)).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        self.reorder_cache(torch.arange(len(self._padding))[indices])
