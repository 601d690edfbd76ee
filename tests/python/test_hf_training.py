"""Fine-tuning through attn_implementation="hsattn", with gradient checkpointing, and models under torch.compile."""

import itertools

import pytest
import torch
from helpers import SMALL
from tiny_models import FAMILIES, padding_mask, tiny_model, tokens
from transformers import CompileConfig

import hsattn.hf

LENGTH = 160


def _batch(kind):
    given, positions = tokens(2, LENGTH), torch.arange(LENGTH)
    batch = {"input_ids": given, "labels": given.clone(), "use_cache": False}
    if kind == "packed":
        batch["position_ids"] = torch.cat([positions[:90], positions[:1], positions[: LENGTH - 91]]).expand(2, -1)
    if kind in ("padded", "with holes"):
        mask = padding_mask((LENGTH, 71), LENGTH, "left")
        if kind == "with holes":
            mask[0, 40:50] = 0
        batch["attention_mask"] = mask
        before = torch.nn.functional.pad(mask[:, :-1], (1, 0))
        batch["labels"][(mask & before) == 0] = -100  # neither padding nor what padding would predict
    return batch


def _gradients(model, batch, call=None):
    model.zero_grad()
    (model if call is None else call)(**batch).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("family", "kind"), [*itertools.product(FAMILIES, ("plain", "padded", "packed")), ("llama", "with holes")]
)
def test_gradients_of_a_full_budget_equal_sdpas(family, kind):
    found, right = (_gradients(tiny_model(family, a).train(), _batch(kind)) for a in ("hsattn", "sdpa"))
    for name, r in right.items():
        torch.testing.assert_close(found[name], r, atol=1e-4 * float(r.abs().max()), rtol=0, msg=name)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_gradient_checkpointing_moves_no_bit(family, use_reentrant):
    model = tiny_model(family).train()
    hsattn.hf.configure(model, **SMALL)
    right = _gradients(model, _batch("padded"))
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    found = _gradients(model, _batch("padded"))
    assert [name for name, r in right.items() if not torch.equal(found[name], r)] == []


@pytest.mark.parametrize("family", ["smollm2", "qwen3"])
def test_fine_tuning_lowers_the_loss(family):
    model = tiny_model(family, initializer_range=0.02).train()
    hsattn.hf.configure(model, **SMALL)
    model.activation_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = model(**_batch("packed")).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("kind", ["plain", "padded", "packed"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_compiled_into_one_graph(family, kind):
    model = tiny_model(family).train()
    hsattn.hf.configure(model, **SMALL)
    right = _gradients(model, _batch(kind))
    found = _gradients(model, _batch(kind), torch.compile(model, fullgraph=True, backend="aot_eager"))
    for name, r in right.items():
        torch.testing.assert_close(found[name], r, msg=name)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_by_inductor():
    model, batch = tiny_model("llama"), _batch("padded")
    hsattn.hf.configure(model, **SMALL)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        right = model(**batch).logits[real]
        found = torch.compile(model, fullgraph=True)(**batch).logits[real]
    torch.testing.assert_close(found, right, atol=1e-3, rtol=0)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_generate_compiles_its_step(family):
    model, batch = tiny_model(family), _batch("padded")
    hsattn.hf.configure(model, **SMALL)
    compiled = CompileConfig(fullgraph=True, backend="aot_eager", mode=None)
    compiled._compile_all_devices = True  # or transformers leaves the CPU out
    options = {"attention_mask": batch["attention_mask"], "max_new_tokens": 12, "do_sample": False}
    right = model.generate(batch["input_ids"], **options)
    found = model.generate(batch["input_ids"], cache_implementation="static", compile_config=compiled, **options)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert torch.equal(found, right)


@pytest.mark.usefixtures("fresh_compiler")
def test_padding_between_tokens_is_refused_in_compiled_models():
    with pytest.raises(NotImplementedError, match="real tokens up to 40 and again from 50; in compiled models"):
        torch.compile(tiny_model("llama"), backend="aot_eager")(**_batch("with holes"))
