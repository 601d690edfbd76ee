"""Chat templates in C++ against transformers' Jinja: the same text, or a refusal that names the construct."""

import json
from pathlib import Path

import pytest
from built_program import ROOT
from tiny_folders import load, make_folder, write_tokenizer

transformers = pytest.importorskip("transformers")
from jinja2 import TemplateError  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

# In the manner of the families that are supported, each with the constructs that theirs are made of; `corners` has what
# stands in none of those.
TEMPLATES = {file.stem: file.read_text() for file in sorted((Path(__file__).parent / "templates").glob("*.jinja"))}
PLAIN = [{"role": "user", "content": "  Hello, «world»! \n"}]
TURNS = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "One and one?"},
    {"role": "assistant", "content": "<think>\nadd them\n</think>\n\nTwo."},
    {"role": "user", "content": "Sure?"},
]
TOOLS = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "abcdef123", "type": "function", "function": {"name": "look", "arguments": {"at": "sky", "n": 2}}}
        ],
    },
    {"role": "tool", "content": "clear"},
    {"role": "user", "content": "Thanks"},
]
RAISING = {("mistral", "turns"), ("mistral_v3", "tools")}
CONVERSATIONS = {"plain": PLAIN, "turns": TURNS, "tools": TOOLS}


@pytest.fixture
def folder(tmp_path):
    """As much of a model as a chat template needs to be shown, and its tokenizer in Python."""
    tokenizer = write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    tokens = {"bos_token": "<begin>", "eos_token": "<end>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokens))
    return tmp_path, PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)


def shown(hsattn, folder, messages):
    (folder / "messages.json").write_text(json.dumps(messages))
    return hsattn("chat", "--model", folder, "--messages", folder / "messages.json", "--show-prompt")


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_templates(hsattn, folder, name, conversation):
    path, tokenizer = folder
    (path / "chat_template.jinja").write_text(TEMPLATES[name])
    messages = CONVERSATIONS[conversation]
    done = shown(hsattn, path, messages)
    given = {"chat_template": TEMPLATES[name], "tokenize": False, "add_generation_prompt": True}
    if (name, conversation) in RAISING:
        with pytest.raises(TemplateError) as error:
            tokenizer.apply_chat_template(messages, **given)
        assert done.returncode == 1
        assert str(error.value) in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout == tokenizer.apply_chat_template(messages, **given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% macro f() %}{% endmacro %}", 'line 1: the tag "macro" is not supported; if, for, set, break and continue'),
        ("a\nb{% include 'x' %}", 'line 2: the tag "include" is not supported'),
        ("{{ messages | groupby('role') }}", 'line 1: the filter "groupby" is not supported; '),
        ("{{ messages is callable }}", 'line 1: the test "callable" is not supported; '),
        ("{{ 'a'.center(9) }}", 'line 1: the method "center" of texts is not supported; '),
        ("{{ cycler('a') }}", 'line 1: the function "cycler" is not supported; '),
        ("{{ messages }}", "line 1: printing a list is not supported; `tojson` is"),
        ("{% set x %}{% endset %}", "line 1: only `set name = value` is supported"),
        ("{{ missing.name }}", 'line 1: "missing" is undefined; "name" of it is asked for'),
        ("{% if %}", "line 1: a value is expected where a tag ends stands"),
        ("{% for a in b %}", "line 1: no endfor before the end"),
        ("{{ 'a' ", "line 1: a tag without end"),
        ("{{ " + "(" * 1000 + ")" * 1000 + " }}", "expressions in each other, more than 200"),
        ("{% if 1 %}" * 1000, "blocks in each other, more than 100"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "does not come to an end"),
        (
            "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}",
            "more than 100",
        ),
        ("{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "too long"),
        ("{% set ns = namespace() %}{% set ns.x = [ns] %}", "a namespace in a list or an object is not supported"),
        ("{{ 9223372036854775807 + 1 }}", "a number is too large"),
        ("{{ 1 // 0 }}", "a division by zero"),
        ("{{ raise_exception('No such role') }}", "line 1: No such role"),
    ],
)
def test_refused(hsattn, folder, text, message):
    path, _ = folder
    (path / "chat_template.jinja").write_text(text)
    done = shown(hsattn, path, PLAIN)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert str(path / "chat_template.jinja") in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_is_no_list_of_messages_is_refused(hsattn, folder):
    path, _ = folder
    (path / "chat_template.jinja").write_text("x")
    done = shown(hsattn, path, {"role": "user"})
    assert done.returncode == 1
    assert "messages: not a list of" in done.stderr


def test_where_templates_lie(hsattn, folder):
    path, _ = folder
    done = shown(hsattn, path, PLAIN)
    assert "no chat_template, and no chat_template.jinja beside it" in done.stderr
    config = {"bos_token": {"content": "<b>"}, "chat_template": "{{ bos_token }}1"}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    assert shown(hsattn, path, PLAIN).stdout == "<b>1"
    config["chat_template"] = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    assert shown(hsattn, path, PLAIN).stdout == "d"


def test_a_conversation_reads_each_token_once(hsattn, tmp_path):
    make_folder(tmp_path, "llama")
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES["chatml"])
    arguments = [
        "chat",
        "--model",
        tmp_path,
        "--json",
        "--max-tokens",
        "12",
        "--threads",
        "1",
        "--precision",
        "float32",
    ]
    done = hsattn(*arguments, input="Hello\nAnd then?\n", stdin=None)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first["reused_tokens"] == 0
    assert second["reused_tokens"] >= first["prompt_tokens"]
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": first["text"]},
        {"role": "user", "content": "And then?"},
    ]
    (tmp_path / "messages.json").write_text(json.dumps(messages))
    alone = hsattn(*arguments, "--messages", tmp_path / "messages.json")
    assert json.loads(alone.stdout)["tokens"] == second["tokens"]


def test_the_real_model_answers_as_in_python(hsattn):
    path = ROOT / "models" / "smollm2-135m-instruct"
    if not path.exists():
        pytest.skip("`./run model` makes it")
    question = "What is the capital of France?"
    done = hsattn(
        "chat", "--model", path, "--message", question, "--max-tokens", 12, "--json", "--precision", "float32"
    )
    assert done.returncode == 0, done.stderr
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(path), load(path)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    right = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert json.loads(done.stdout)["tokens"] == right.tolist()
