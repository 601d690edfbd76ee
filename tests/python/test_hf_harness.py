"""A local task of the evaluation harness (lm_eval, which is large and so not among what the tests install) runs."""

import json

import pytest
from tiny_models import VOCABULARY, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import hsattn.hf  # noqa: F401

lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is not installed (pip install lm_eval)")
huggingface = pytest.importorskip("lm_eval.models.huggingface")
task_files = pytest.importorskip("lm_eval.tasks")

TASK = """
task: follows
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/questions.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""


def _tokenizer():
    alphabet = [*"abcdefghijklmnopqrstuvwxyz0123456789", "?", "Ġ", "<pad>"]
    assert len(alphabet) < VOCABULARY
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<pad>")


def test_a_local_task(tmp_path, monkeypatch):
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    questions = [
        {"question": "what follows " * i + f"{i}?", "choices": [f" {i + 1}", f" {i - 1}"], "answer": 0}
        for i in range(6)
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    (tmp_path / "follows.yaml").write_text(TASK.format(folder=tmp_path))
    tasks = task_files.TaskManager(include_path=str(tmp_path), include_defaults=False)
    found = {}
    for attention in ("hsattn", "sdpa"):
        model = huggingface.HFLM(pretrained=tiny_model("llama", attention), tokenizer=_tokenizer(), batch_size=4)
        done = lm_eval.simple_evaluate(model=model, tasks=["follows"], task_manager=tasks, bootstrap_iters=0)
        found[attention] = [s["filtered_resps"] for s in done["samples"]["follows"]]
    assert len(found["sdpa"]) == len(questions)
    for ours, right in zip(found["hsattn"], found["sdpa"], strict=True):
        assert [float(o[0]) for o in ours] == pytest.approx([float(r[0]) for r in right], abs=1e-3)
