"""The README's Python, run as a stranger would: in another folder, with insightface's own pack."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).parents[1]


def test_the_examples_run(shared, photo, tmp_path):
    pytest.importorskip("insightface", reason="needs insightface")
    from insightface.utils import DEFAULT_MP_NAME

    pack = tmp_path / ".insightface" / "models" / DEFAULT_MP_NAME
    pack.mkdir(parents=True)
    for name in ("det_500m.onnx", "mobileface_v2.onnx"):
        shutil.copyfile(shared / "models" / name, pack / name)
    cv2.imwrite(str(tmp_path / "photo.jpg"), photo)

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    blocks = [block for block in blocks if "import ray" not in block]  # see test_batches.py
    assert len(blocks) == 2
    check = (
        "assert len(faces) == 6 and all(face.embedding is not None for face in faces)\n"
        "assert clean.shape == photo.shape and (clean != photo).any()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, check])],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 3


def test_every_command_is_there(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"python -m facepurify (\w+)", readme))
    assert commands == {"demo", "doctor", "inspect", "models", "purify"}
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "facepurify", command, "--help"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


class Parsed(Exception):
    """A command line was understood."""


def written_commands() -> list[str]:
    """The commands of training and benchmark in README, cards and records, in one line each."""
    texts = [ROOT / "README.md", *ROOT.glob("models/*.md"), *ROOT.glob("benchmarks/*/README.md")]
    joined = "\n".join(path.read_text(encoding="utf-8") for path in texts).replace("\\\n", "")
    found = re.findall(r"^    (python -m facepurify\.(?:train|bench) .*)$", joined, re.MULTILINE)
    return sorted({line for line in found if "…" not in line and "--help" not in line})


@pytest.mark.parametrize("line", written_commands())
def test_written_commands_are_understood(line: str, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("torch", reason="needs facepurify[train]")
    from facepurify.bench.__main__ import main as bench
    from facepurify.train.__main__ import main as train

    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *arguments):
        parse(parser, *arguments)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    words = shlex.split(line, comments=True)
    with pytest.raises(Parsed):
        {"facepurify.train": train, "facepurify.bench": bench}[words[2]](words[3:])
    if "--publish" in words:  # it refuses to publish weights of no origin
        assert {"--training-data", "--licence"} <= set(words)


def test_there_are_written_commands():
    assert len(written_commands()) > 25


TEXTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    [*ROOT.glob("models/*.md"), *ROOT.glob("benchmarks/*/README.md")]
)


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_text_points_to_is_there(text: Path):
    written = text.read_text(encoding="utf-8")
    lost = []
    for target in re.findall(r"\]\((?!http)([^)\s]+)\)", written):
        path, _, anchor = target.partition("#")
        goal = text.parent / path if path else text
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            lost.append(target)
    files = re.findall(r"`(benchmarks/[\w./*-]+)`", written)
    lost += [name for name in files if not list(ROOT.glob(name))]
    assert not lost


def anchors(text: Path) -> list[str]:
    """What the headings of a text are linked by."""
    heads = re.findall(r"^#+ (.*)$", text.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-") for head in heads]


def rates(record: str, purifier: str, attack: str) -> str:
    """Dodging / impersonation of an oblivious attack in a recorded run, as tables print them."""
    results = json.loads((ROOT / "benchmarks" / record).read_text())
    (row,) = (
        row
        for row in results["attacked"]
        if (row["defence"], row["attack"], row["eps"]) == (purifier, attack, 8.0)
    )
    hits = (row[goal]["fixed"] for goal in ("dodging", "impersonation"))
    return " / ".join(f"{100 * each['hits'] / each['total']:.1f}" for each in hits)


def test_times_by_hand_are_the_recorded_ones():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "benchmarks" / "records" / "latency.json").read_text())
    for name in ("immune", "pin", "ais", "uddn", "uddn-robust", "uddn+pin"):
        times = (record[f"{name}, recognizer, batch {batch}"] for batch in (1, 32))
        said = " / ".join(f"{each[name] / each['recognizer']:.2f}" for each in times)
        assert re.search(rf'^\| `"{re.escape(name)}".*\| {said} \|$', readme, re.MULTILINE), name


FINE = ("fgsm", "mim10", "pgd10", "pgd40")  # of fine grain, as both records have them


# each came through a purifier that had not seen it
UNSEEN = ("blocks40", "graded40", "grey40", "grey_blocks40", "stripes40")


def worst(results: dict, purifier: str, attacker: str, *names: str, digits: int = 1) -> str:
    """Dodging / impersonation of the worst of some attacks at 8/255, all if none is named."""
    rows = [
        row
        for row in results["attacked"]
        if (row["attacker"], row["defence"], row["eps"]) == (attacker, purifier, 8.0)
        and (not names or row["attack"].split()[0] in names)
    ]
    hits = ([row[goal]["fixed"] for row in rows] for goal in ("dodging", "impersonation"))
    most = (max(each["hits"] / each["total"] for each in found) for found in hits)
    return " / ".join(f"{100 * rate:.{digits}f}" for rate in most)


def test_the_table_at_the_top_is_the_recorded_one():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    top = readme[: readme.index("## In front of insightface")]
    record = ROOT / "benchmarks" / "results" / "lfw-mobileface_v2.json"
    results = json.loads(record.read_text())
    alarms = json.loads((ROOT / "benchmarks" / "records" / "alarms.json").read_text())
    frr = {row["defence"]: f"{100 * row['frr']:.1f}" for row in results["clean"]}
    asked = (
        ("oblivious", FINE), ("stored", FINE),
        *((kind, (name,)) for name in UNSEEN for kind in ("oblivious", "stored")),
        ("query", ()), ("adaptive", ()),
    )  # fmt: skip
    rows = [
        tuple(worst(results, name, attacker, *names) for name in ("none", "immune"))
        for attacker, names in asked
    ]
    rows += [(frr["none"], frr["immune"])]
    rows += [("", f"{100 * alarms['immune']['as they are']['alarms']:.1f}")]
    said = re.findall(r"^\| (?!success).* \| (.*?) ?\| (.*) \|$", top, re.MULTILINE)
    assert [(was, now.strip("*")) for was, now in said] == rows


@pytest.mark.parametrize(
    "attack",
    [
        *FINE,
        *UNSEEN,
        *(f"{name} as jpeg90" for name in ("pgd40", *UNSEEN)),
    ],
)
def test_attacks_in_the_card_are_the_recorded_ones(attack: str):
    card = (ROOT / "models" / "immune.md").read_text(encoding="utf-8")
    label = attack.replace(" as jpeg90", ", stored as JPEG 90")
    columns = ("none", "immune", "uddn", "pin", "jpeg15")
    said = [rates("results/lfw-mobileface_v2.json", name, attack) for name in columns]
    assert f"| {label} | {' | '.join(said)} |" in card


@pytest.mark.parametrize(
    ("label", "record", "purifier"),
    [
        ("`immune`", "results/lfw-mobileface_v2.json", "immune"),
        ("adapted", "immune/lfw-adapted.json", "immune-adapted"),
    ],
)
def test_the_worst_attacks_before_and_after_adapting_are_the_recorded_ones(
    label: str, record: str, purifier: str
):
    results = json.loads((ROOT / "benchmarks" / record).read_text())
    (clean,) = (row for row in results["clean"] if row["defence"] == purifier)
    said = [f"{100 * clean['frr']:.1f}"]
    said += [worst(results, purifier, attacker, *FINE) for attacker in ("oblivious", "stored")]
    said += [worst(results, purifier, "adaptive", digits=0)]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"| {label} | {' | '.join(said)} |" in readme


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("insightface's `buffalo_s`", "w600k_mbf"),
        ("OpenCV's SFace", "sface"),
        ("FaceNet", "facenet"),
        ("dlib", "dlib"),
    ],
)
def test_what_is_left_on_recognizers_that_people_use_is_recorded(label: str, name: str):
    record = ROOT / "benchmarks" / "strangers" / f"held-out-{name}.json"
    measured = json.loads(record.read_text())
    (without,), (behind,) = (measured[model].values() for model in ("none", "immune"))

    def worst(found: dict[str, float], *attacks: str) -> str:
        goals = ("dodging", "impersonation")
        rates = (max(found[f"{attack} {goal}"] for attack in attacks) for goal in goals)
        return " / ".join(f"{100 * rate:.0f}" for rate in rates)

    said = [f"{100 * found['genuine rejected']:.1f}" for found in (without, behind)]
    said += [worst(found, "fgsm", "pgd20") for found in (without, behind)]
    said += [
        worst(behind, attack) for attack in ("blocks20", "grey20", "grey_blocks20", "stripes20")
    ]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    row = re.escape(f" | {' | '.join(said)} |")
    assert re.search(rf"^\| {re.escape(label)}.*{row}$", readme, re.MULTILINE)
