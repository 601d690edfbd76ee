"""A model of another's shape with random weights, for prompts that are longer than the other was made for.

    ./run model
    .venv/bin/python bench/random_model.py models/smollm2-135m-instruct /tmp/long --tokens 131136
    build/full/cli/hsattn generate --model /tmp/long --text TEXT --context 131072 --max-tokens 2

Its text is noise; what it takes to read and write it is that of a model of this shape, but that random queries share
less with their neighbours than those of a trained model.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the model whose shape and tokenizer it has")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--tokens", type=int, default=131136, help="the longest text, with its answer")
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    torch.manual_seed(o.seed)
    config = AutoConfig.from_pretrained(o.model, max_position_embeddings=o.tokens)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(o.out)
    AutoTokenizer.from_pretrained(o.model).save_pretrained(o.out)
    print(f"written: {o.out}")


if __name__ == "__main__":
    main()
