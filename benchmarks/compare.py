"""Hold a new record against an older one; ratios, never seconds.

    python benchmarks/compare.py benchmarks/records/floor.json new.json

A ratio is a time over another of the same run: of the whole call over the floor and over the model
alone (floor.py), of a purifier over its rival (latency.py; footprint.py, where memory is one too).
Exits with 1 if one is worse by more than ``--limit`` per cent, or is no longer measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from facepurify.errors import DataError, FacePurifyError

RATIOS = ("model_over_floor", "call_over_floor", "call_over_model")


def ratios_of(record: dict[str, Any]) -> dict[str, float]:
    """Name every ratio of a record."""
    try:
        if "rows" in record:
            return {
                f"{row['model']}, batch {row['batch']}, {row['threads']} thread(s), {ratio}": float(
                    row[ratio]
                )
                for row in record["rows"]
                for ratio in RATIOS
                if ratio in row
            }
        ratios = {}
        for name, times in record.items():
            mine, theirs = times.values()
            ratios[name] = mine / theirs
        return ratios
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise DataError(
            "expected a record of floor.py, latency.py or footprint.py, "
            f"got something else: {error!r}"
        ) from error


def read(path: Path) -> dict[str, float]:
    """Read the ratios of a file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"expected a record in {path}, got {error!r}") from error
    return ratios_of(record)


def compare(old: dict[str, float], new: dict[str, float], limit: float) -> list[str]:
    """Say what is worse than it was, and what is no longer measured.

    Args:
        old: Ratios by name.
        new: Ratios by name; more than in ``old`` is no regression.
        limit: Per cent by which a ratio may grow.
    """
    worse = [f"{name}: no longer measured" for name in old if name not in new]
    for name, before in old.items():
        growth = 100 * (new.get(name, before) / before - 1)
        if not growth <= limit:  # true for NaN too
            worse.append(f"{name}: {before:.3f} became {new[name]:.3f}, {growth:+.1f} %")
    return worse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, metavar="OLD", help="the recorded JSON")
    parser.add_argument("new", type=Path, metavar="NEW")
    parser.add_argument("--limit", type=float, default=15.0, help="growth allowed, per cent")
    options = parser.parse_args()
    try:
        old, new = read(options.old), read(options.new)
    except FacePurifyError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    worse = compare(old, new, options.limit)
    for line in worse:
        print(line)
    print(f"{len(old)} ratios, {len(worse)} worse by more than {options.limit:g} %")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
