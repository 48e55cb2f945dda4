"""Options that the benchmark's commands share, and what is made of them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from facepurify.bench.attacks import get_attack
from facepurify.bench.defences import Defence, get_defence
from facepurify.bench.evaluate import Protocol
from facepurify.bench.memory import keep_freed_memory
from facepurify.bench.pairs import Pairs, load_pairs
from facepurify.bench.recognizers import Recognizer
from facepurify.bench.shipped import find_recognizer
from facepurify.errors import OptionError
from facepurify.runtime import MAX_THREADS

__all__ = [
    "FULL",
    "add_attack_options",
    "add_data_options",
    "defences_beside_none",
    "make_protocol",
    "open_recognizers",
    "read_options",
    "read_pairs",
    "set_threads",
]

MINIMAL = "minimal"
FULL: dict[str, Any] = {
    "attacks": ("fgsm", "pgd40", "blocks40", "graded40", "grey40", "grey_blocks40", "stripes40"),
    "query": "square500",
    "limit": 500,
    "adaptive_limit": 50,
}


def add_data_options(parser: argparse.ArgumentParser, out: str) -> None:
    """Declare what is measured on, how much of it, and where the results go.

    Args:
        parser: Of a command.
        out: Default folder of the results.
    """
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="aligned faces, or insightface's .bin pack"
    )
    parser.add_argument(
        "--pairs", type=Path, metavar="FILE", help="pairs in LFW's format; else by subfolder"
    )
    parser.add_argument("--limit", type=int, help="attacked pairs of each kind (500)")
    parser.add_argument("--seed", type=int, default=0, help="chooses pairs, and all randomness")
    parser.add_argument(
        "--out", type=Path, default=Path(out), metavar="DIR", help="results and cache"
    )
    parser.add_argument("--threads", type=int, help="of torch and ONNX Runtime")


def add_attack_options(parser: argparse.ArgumentParser) -> None:
    """Declare what :func:`make_protocol` takes, beside the options of the data."""
    parser.add_argument(
        "--attack",
        action="append",
        metavar="NAME",
        help="such as fgsm, pgd40, mim10-l2; minimal for distances; repeatable",
    )
    parser.add_argument(
        "--eps",
        type=float,
        action="append",
        help="L-inf budget: whole grey levels, 1 to 255, repeatable (8)",
    )
    parser.add_argument(
        "--eps-l2", type=float, action="append", help="L2 budget in grey levels, repeatable (512)"
    )
    parser.add_argument(
        "--adaptive-limit", type=int, help="of those, pairs for adaptive and query attacks (50)"
    )
    parser.add_argument(
        "--restarts",
        type=int,
        default=Protocol.restarts,
        help="of adaptive attacks; the strongest counts (%(default)s)",
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=Protocol.draws,
        help="of a random defence in each gradient, EOT (%(default)s)",
    )
    parser.add_argument(
        "--stored",
        default="jpeg90",
        metavar="BASELINE",
        help="measure oblivious attacks stored so, too (jpeg90); none for not",
    )
    parser.add_argument(
        "--policy", choices=("probe", "both"), default="probe", help="purify the gallery too?"
    )


def read_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Read a command's options, and make the process ready for long attacks: memory and threads.

    Raises:
        OptionError: As :func:`set_threads`.
    """
    options = parser.parse_args(arguments)
    keep_freed_memory()
    set_threads(options)
    return options


def set_threads(options: argparse.Namespace) -> None:
    """Give torch the threads that were asked for.

    Raises:
        OptionError: They are fewer than one, or more than any processor has.
    """
    if options.threads is None:
        return
    if not 1 <= options.threads <= MAX_THREADS:
        raise OptionError(
            f"expected --threads >= 1 and at most {MAX_THREADS}, got {options.threads}"
        )
    torch.set_num_threads(options.threads)


def read_pairs(options: argparse.Namespace) -> Pairs:
    """Load the pairs of ``--data`` and ``--pairs``.

    Raises:
        OptionError: If no data is named.
        DataError: If something is missing or not readable.
    """
    if options.data is None:
        raise OptionError("expected --data, a folder of aligned faces or a .bin pack, got none")
    return load_pairs(options.data, options.pairs, seed=options.seed)


def open_recognizers(names: Sequence[str], options: argparse.Namespace) -> list[Recognizer]:
    """Open recognizers, each a path that ends in ``.onnx`` or the name of a shipped one.

    Raises:
        OptionError: If one is neither.
        ModelError: If a file is missing or no such recognizer.
    """
    files = [find_recognizer(name) for name in names]
    return [Recognizer.from_onnx(file, threads=options.threads) for file in files]


def defences_beside_none(names: Sequence[str]) -> list[Defence]:
    """Make the named defences, no defence first: every other is compared with it."""
    return [get_defence(name) for name in dict.fromkeys(["none", *names])]


def make_protocol(options: argparse.Namespace, defaults: Mapping[str, Any]) -> Protocol:
    """Make the protocol that the options ask for.

    Args:
        options: Of a command with the options of the data and of the attacks.
        defaults: What holds where an option is not given, as :data:`FULL`.

    Raises:
        AttackError: If there is no such attack.
        OptionError: If a number makes no sense.
    """
    asked = dict.fromkeys(options.attack or [])
    names = [name for name in asked if name != MINIMAL] or defaults["attacks"]
    return Protocol(
        attacks=tuple(get_attack(name) for name in names),
        eps=tuple(dict.fromkeys(options.eps or [8.0])),
        eps_l2=tuple(dict.fromkeys(options.eps_l2 or [512.0])),
        query=get_attack(defaults["query"]),
        limit=defaults["limit"] if options.limit is None else options.limit,
        adaptive_limit=(
            defaults["adaptive_limit"] if options.adaptive_limit is None else options.adaptive_limit
        ),
        policy=options.policy,
        storage=None if options.stored == "none" else get_defence(options.stored),
        seed=options.seed,
        restarts=options.restarts,
        draws=options.draws,
        distances=MINIMAL in asked,
    )
