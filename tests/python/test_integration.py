"""attention() inside what PyTorch programs put around it: compilation, checkpointing, autocast, worker processes."""

import multiprocessing
import os
import queue

import pytest
import torch
from helpers import SMALL, problem
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

import hsattn

LENGTHS = (100, 257, 1500)
PATIENCE = 60  # seconds until a worker counts as hung


def _attend(q, k, v):
    return hsattn.attention(q * 2, k, v, **SMALL, far_field=True)


def _with_gradients(call, tensors):
    tensors = [t.detach().requires_grad_() for t in tensors]
    o = call(*tensors)
    o.backward(tensors[0].detach())
    return o.detach(), *(t.grad for t in tensors)


def _expect_same_bits(found, right):
    assert [torch.equal(f, r) for f, r in zip(found, right, strict=True)] == [True] * len(right)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(("dynamic", "graphs"), [(None, 2), (True, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_lengths_change_without_graph_breaks(dynamic, graphs, dtype):
    compiled = torch.compile(_attend, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for length in (*LENGTHS, *LENGTHS):
        tensors = problem(length, dtype=dtype)
        _expect_same_bits(_with_gradients(compiled, tensors), _with_gradients(_attend, tensors))
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_by_inductor():
    compiled = torch.compile(_attend, fullgraph=True, dynamic=True)
    for length in LENGTHS:
        tensors = problem(length)
        for found, right in zip(_with_gradients(compiled, tensors), _with_gradients(_attend, tensors), strict=True):
            torch.testing.assert_close(found, right)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointing_moves_no_bit(use_reentrant, dtype):
    tensors = problem(300, heads=4, kv_heads=2, dtype=dtype)
    found = _with_gradients(lambda *given: checkpoint(_attend, *given, use_reentrant=use_reentrant), tensors)
    _expect_same_bits(found, _with_gradients(_attend, tensors))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_gradients_under_autocast_have_the_type_of_the_parameters(half):
    tensors = problem(150, grad=True)
    with torch.autocast("cpu", dtype=half):
        o = _attend(*tensors)
    gradients = torch.autograd.grad(o.float().square().sum(), tensors)
    assert o.dtype == half
    for gradient in gradients:
        assert gradient.dtype == torch.float32
        assert gradient.abs().max() > 0


def _answer():
    """Work for two threads, but none for torch's own operations: those would hang in a forked child."""
    return _with_gradients(_attend, problem(300, heads=4, kv_heads=2))


@pytest.fixture
def right_answer():
    """What two threads of this process give. That starts torch's threads, which no forked child inherits."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield _answer()
    torch.set_num_threads(before)


class _Answers(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return _answer()


def test_workers_of_a_data_loader_give_the_same_bits(right_answer):
    loader = DataLoader(_Answers(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=PATIENCE)
    answers = list(loader)
    assert len(answers) == 4
    for answer in answers:
        _expect_same_bits(answer, right_answer)


def _send_answer(results):
    torch.set_num_threads(2)  # a worker of a DataLoader has one
    results.put([t.numpy() for t in _answer()])
    results.close()
    results.join_thread()
    os._exit(0)


def test_a_forked_child_with_threads_gives_the_same_bits(right_answer):
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    child = fork.Process(target=_send_answer, args=(results,), daemon=True)
    child.start()
    try:
        answer = results.get(timeout=PATIENCE)
    except queue.Empty:
        pytest.fail("the child hangs")
    finally:
        child.kill()
    _expect_same_bits([torch.from_numpy(a) for a in answer], right_answer)
