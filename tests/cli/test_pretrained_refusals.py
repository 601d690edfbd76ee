"""What a pretrained model asks for and is not there, and damaged files: one line that names it, exit code 1."""

import json
import struct

import pytest
from safetensors.torch import load_file, save_file
from tiny_folders import make_folder

REFUSED = [
    ({"model_type": "gemma2"}, 'model_type is "gemma2"; llama, mistral, qwen2 and qwen3 are supported'),
    ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForCausalLM is supported"),
    ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping asks for soft-capping of attention scores"),
    ({"final_logit_softcapping": 30.0}, "final_logit_softcapping asks for soft-capping of logits"),
    ({"num_local_experts": 8}, "num_local_experts asks for a mixture of experts"),
    ({"quantization_config": {"bits": 4}}, "quantization_config asks for quantised weights"),
    ({"hidden_act": "gelu"}, 'hidden_act is "gelu"; silu is supported'),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, 'rotary positions of the type "yarn"'),
    ({"rope_parameters": {"rope_type": "linear", "factor": "x"}}, 'rope_parameters: factor is "\\"x\\""'),
    ({"head_dim": 512}, "a head dimension of 512; even ones of 8 to 256 are supported"),
    ({"num_attention_heads": 5}, "num_key_value_heads is 2; a divisor of num_attention_heads, 5, is right"),
    ({"num_hidden_layers": -1}, 'num_hidden_layers is "-1"; a whole number of 1 to 10000 is right'),
    ({"num_hidden_layers": 2}, "the weights hold model.layers.2."),
    ({"num_hidden_layers": 4}, "no tensor model.layers.3."),
    ({"intermediate_size": 97}, "tensor model.layers.0.mlp.gate_proj.weight has shape [96, 64]"),
    ({"vocab_size": 100}, "tokenizer.json has tokens up to 259, config.json a vocab_size of 100"),
    ({"hsattn": {"top_q": 3}}, 'config.json: hsattn: unknown option "top_q"'),
    ({"hsattn": {"layers": {"3": {}}}}, 'hsattn: layers names "3"; there are 0 to 2'),
    ({"hsattn": {"block": 7}}, "config.json: hsattn: options: block is 7"),
]


def generate(hsattn, folder, *options):
    return hsattn("generate", "--model", folder, "--prompt", "x", "--max-tokens", 1, "--threads", 1, *options)


def assert_refused(done, message, code=1):
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    make_folder(folder, "llama")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def folder(whole, tmp_path):
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda value: str(value)[:50])
def test_configurations_that_are_not_supported(hsattn, folder, changes, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    assert_refused(generate(hsattn, folder), message)


def damage_header(content, change):
    length = struct.unpack("<Q", content[:8])[0]
    header = json.dumps(change(json.loads(content[8 : 8 + length]))).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def test_damaged_weights(hsattn, folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    name = "model.norm.weight"
    cases = {
        "it is cut off": content[:100],
        "bytes; a safetensors file has at least 8": b"",
        "a header of 18446744073709551615 bytes; at most 100000000": b"\xff" * 8 + content[8:],
        "are not two within the file's": content[:-1],
        "1 bytes behind the last tensor": content + b"\0",
        'type "F3" is unknown': damage_header(content, lambda h: {**h, name: {**h[name], "dtype": "F3"}}),
        f'tensor "{name}": 256 bytes; type and shape need 252': damage_header(
            content, lambda h: {**h, name: {**h[name], "shape": [63]}}
        ),
        "no tensor model.norm.weight": damage_header(
            content, lambda h: {k.replace(name, "other"): v for k, v in h.items()}
        ),
    }
    for message, damaged in cases.items():
        path.write_bytes(damaged)
        assert_refused(generate(hsattn, folder), message)
    path.unlink()
    assert_refused(generate(hsattn, folder), "neither model.safetensors nor model.safetensors.index.json")


def test_damaged_small_files(hsattn, folder):
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        assert_refused(generate(hsattn, folder), "config.json" if name == "config.json" else name)
        (folder / name).write_bytes(content)
    (folder / "generation_config.json").write_text('{"num_beams": 4}')
    assert_refused(generate(hsattn, folder), 'num_beams is "4", which is not supported')


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--attention", "performer"), "a pretrained model runs with the library's patterns"),
        (("--attention", "nothing"), "attention is nothing; one of full"),
        (("--temperature", "-3"), "temperature is -3; 0 to 100 is right"),
        (("--top-p", "0"), "top_p is 0; above 0 and at most 1 is right"),
        (("--precision", "fp8"), "precision is fp8; auto, float32 or bf16 are right"),
        (("--text", "x"), "--prompt and --text are given; one of them is right"),
    ],
)
def test_options_that_cannot_be(hsattn, folder, options, message):
    assert_refused(generate(hsattn, folder, *options), message, code=2)


@pytest.mark.parametrize("temperature", [0, 1])
def test_weights_that_are_no_numbers(hsattn, folder, tmp_path, temperature):
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, weights, {"format": "pt"})
    assert_refused(generate(hsattn, folder, "--temperature", temperature), "tokens are not numbers; its weights may be")
    (tmp_path / "text.txt").write_text("some text " * 40)
    done = hsattn("eval", "--model", folder, "--text", tmp_path / "text.txt", "--context", 64, "--threads", 1)
    assert_refused(done, "losses of 64 tokens are not finite; its weights may be broken")
