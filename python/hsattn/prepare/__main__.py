"""The two verbs; see the package."""

from __future__ import annotations

import argparse
import os
import signal
import sys

from hsattn.prepare.archives import MissingPackageError, Walker
from hsattn.prepare.frames import DONE, FAILED, FrameWriter, read_texts
from hsattn.prepare.training import SPLITS, train


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m hsattn.prepare", description="Part of `hsattn prepare`.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    read = verbs.add_parser("read", help="send the files in an archive to stdout, as frames")
    read.add_argument("path")
    read.add_argument("--rows", choices=("documents", "lines"), default="documents", help="what a row of Parquet is")
    read.add_argument("--field", default="text", help="column of Parquet that holds the text")
    read.add_argument("--after", default="", help="position to go on from, such as 0/12/3")
    trainer = verbs.add_parser("train", help="train a tokenizer on texts from stdin")
    trainer.add_argument("--vocabulary", type=int, required=True)
    trainer.add_argument("--split", choices=sorted(SPLITS), default="gpt2")
    trainer.add_argument("--out", required=True)
    return parser.parse_args()


def main() -> int:
    options = _arguments()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program decides when to stop; then the pipe breaks
    frames = FrameWriter()
    try:
        if options.verb == "read":
            after = tuple(map(int, options.after.split("/"))) if options.after else ()
            Walker(frames, options.rows, options.field, after).walk(options.path)
        else:
            train(read_texts(sys.stdin.buffer), options.vocabulary, options.split, options.out)
        frames.finish(DONE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it closes stdout
    except MissingPackageError as missing:
        path = getattr(options, "path", "training a tokenizer")
        command = f"{sys.executable} -m pip install {missing}"
        frames.finish(FAILED, f"{path} needs the Python package {missing}; install it with: {command}")
    except Exception as error:  # one line for the program, whatever it is
        frames.finish(FAILED, f"{getattr(options, 'path', options.verb)}: {type(error).__name__}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
