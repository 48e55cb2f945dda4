"""``python -m facepurify.train COMMAND``: each step from faces to a shipped model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from facepurify.bench.options import set_threads
from facepurify.errors import FacePurifyError, SeedError
from facepurify.terminal import exit_with, printable
from facepurify.train.commands import antibodies, data, denoisers, recognizers, shipping
from facepurify.train.commands.options import Commands

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m facepurify.train",
        description="From folders of aligned 112 x 112 faces to an ONNX purifier, step by step.",
        epilog="ais and recognizer can be spread over processes, each with a batch of its own: "
        "torchrun --nproc-per-node 2 -m -- facepurify.train recognizer ... (mind the two dashes)",
    )
    commands = Commands(parser)
    for module in (data, antibodies, denoisers, shipping, recognizers):
        module.add_commands(commands)
    options = parser.parse_args(arguments)
    try:
        if options.seed < 0:
            raise SeedError(f"expected a seed >= 0, got {options.seed}")
        set_threads(options)
        torch.manual_seed(options.seed)
        options.command(options)
    except FacePurifyError as error:
        print(f"{type(error).__name__}: {printable(str(error))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    exit_with(main)
