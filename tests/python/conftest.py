"""Fixtures that the tests share."""

import pytest
import torch
import torch._inductor.config
from torch._dynamo.utils import counters


@pytest.fixture
def fresh_compiler():
    """No code of earlier runs: torch's cache on disk does not notice that an autograd formula was changed."""
    torch._dynamo.reset()
    counters.clear()
    with torch._inductor.config.patch(force_disable_caches=True):
        yield
    torch._dynamo.reset()
