"""Ask pip-audit whether what facepurify requires, as installed here, has known holes.

    python .ci/audit.py PIP-AUDIT

It asks for the packages that facepurify names, not for all of theirs. Where its database cannot be
reached, this says so and passes: the floors that tests/test_packaging.py holds are then all there
is. (pip-audit itself reports "no known vulnerabilities" there.)
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any


def pinned() -> list[str]:
    """Every package that facepurify or an extra of it names and that is installed, with version."""
    names = {re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in requires("facepurify") or []}
    found = []
    for name in sorted(names - {"facepurify"}):
        try:
            # a build for one kind of hardware ("+cpu") is that of the public version
            found.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            continue
    return found


def verdict(report: dict[str, Any]) -> tuple[int, list[str]]:
    """Read pip-audit's report.

    Returns:
        The exit status, and lines to print: 1 where there is a hole, else 0.
    """
    parts = report["dependencies"]
    holes = [
        f"{part['name']} {part['version']}: {hole['id']}, mended in "
        + (", ".join(hole["fix_versions"]) or "no release")
        for part in parts
        for hole in part.get("vulns", [])
    ]
    if holes:
        return 1, holes
    skipped = sum("skip_reason" in part for part in parts)
    if skipped == len(parts):
        return 0, ["pip-audit could not reach its database: nothing was audited"]
    return 0, [f"{len(parts) - skipped} packages without a known hole, {skipped} not found"]


def main() -> int:
    """Audit, print what was found and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="pip-audit, as it can be run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "requirements.txt"
        listing.write_text("\n".join(pinned()) + "\n", encoding="ascii")
        flags = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(  # noqa: S603
            [options.program, *flags, "-r", listing], capture_output=True, text=True, check=False
        )
    try:
        status, lines = verdict(json.loads(done.stdout))
    except ValueError:  # no connection at all
        reason = (done.stderr.strip() or "no output").splitlines()[-1]
        status, lines = 0, [f"pip-audit could not reach its database: {reason}"]
    sys.stderr.write("\n".join(lines) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
