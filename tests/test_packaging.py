"""What a wheel and an sdist hold, and that an installed wheel works away from the checkout."""

from __future__ import annotations

import base64
import configparser
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
TOP = ("CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.cfg")
TEMPLATES = ROOT / "facepurify" / "bench" / "templates"


def run(command: Sequence[str | Path], folder: Path, **variables: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sources() -> set[str]:
    """The modules, templates and weights that belong into a distribution, as installed."""
    package = ROOT / "facepurify"
    files = [*package.rglob("*.py"), *TEMPLATES.iterdir(), package / "py.typed"]
    models = [path for path in (ROOT / "models").iterdir() if path.is_file()]
    return {path.relative_to(ROOT).as_posix() for path in files} | {
        f"facepurify/models/{path.name}" for path in models
    }


class Built(NamedTuple):
    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A wheel and an sdist, built from a copy so that nothing is left in the checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in TOP:
        shutil.copy(ROOT / name, copy / name)
    for name in ("facepurify", "models", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    run([sys.executable, "-m", "build", "--no-isolation"], copy, PYTHONPATH="")
    (wheel,) = (copy / "dist").glob("*.whl")
    (sdist,) = (copy / "dist").glob("*.tar.gz")
    return Built(wheel, sdist)


def test_every_package_is_listed():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "facepurify").rglob("__init__.py")
    }
    assert listed == found | {"facepurify.models"}


def test_the_wheel_holds_the_package_and_the_weights_only(built):
    with zipfile.ZipFile(built.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (licence,) = (name for name in wheel.namelist() if name.endswith("/LICENSE"))
        assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert names == sources()
    manifest = json.loads((ROOT / "models" / "manifest.json").read_text())
    for model in manifest["models"].values():
        assert {f"facepurify/models/{model['file']}", f"facepurify/models/{model['card']}"} <= names
    # and no weights that the manifest does not know
    entries = [*manifest["models"].values(), *manifest["recognizers"].values()]
    known = {entry[key] for entry in entries for key in ("file", "card")} | {"manifest.json"}
    weights = {Path(name).name for name in names if name.startswith("facepurify/models/")}
    assert weights == known


def test_the_sdist_holds_what_the_wheel_is_built_from(built):
    with tarfile.open(built.sdist) as sdist:
        files = {Path(member.name) for member in sdist.getmembers() if member.isfile()}
    names = {Path(*path.parts[1:]).as_posix() for path in files}
    names = {name for name in names if ".egg-info/" not in name} - {"PKG-INFO"}
    moved = {name.replace("facepurify/models/", "models/") for name in sources()}
    assert names == moved | set(TOP)


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    run([*pip, "--target", folder, built.wheel], folder)
    return folder


def test_an_installed_wheel_works_elsewhere(installed, tmp_path):
    code = (
        "import facepurify, numpy as np; from facepurify import Purifier\n"
        "crop = Purifier().purify(np.full((112, 112, 3), 128, np.uint8))\n"
        "print(facepurify.__file__, crop.shape, Purifier().info.path)"
    )
    out = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(installed))
    assert out.startswith(str(installed / "facepurify" / "__init__.py") + " (112, 112, 3) ")
    assert str(installed / "facepurify" / "models") in out


def test_the_installed_commands_work(installed, tmp_path):
    doctor = run(
        [sys.executable, "-m", "facepurify", "doctor", "--json"],
        tmp_path,
        PYTHONPATH=str(installed),
    )
    assert json.loads(doctor)["healthy"]
    script = run(
        [installed / "bin" / "facepurify", "--version"], tmp_path, PYTHONPATH=str(installed)
    )
    assert script.startswith("facepurify ")


# The first releases without the holes that are known (and fixed), by package; the CVE of the last.
SOUND = {
    "jinja2": ("3.1.6", "CVE-2025-27516"),
    "onnx": ("1.21", "CVE-2026-34447"),
    "opencv-python": ("4.12", "CVE-2025-53644"),
    "pillow": ("12.3", "CVE-2026-55379"),
    "pyarrow": ("23.0.1", "CVE-2026-25087"),
    "ray": ("2.55", "CVE-2026-41486"),
    "setuptools": ("78.1.1", "CVE-2025-47273"),
    "torch": ("2.10", "CVE-2026-24747"),
    "tqdm": ("4.66.3", "CVE-2024-34062"),
}


def requirements() -> list[Requirement]:
    """Everything that setup.cfg and pyproject.toml ask for, our own extras left out."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].splitlines()
    for extra in config["options.extras_require"].values():
        lines += extra.splitlines()
    lines += re.findall(r'"(setuptools>[^"]*)"', (ROOT / "pyproject.toml").read_text())
    asked = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return [one for one in asked if one.name != "facepurify"]


def test_every_requirement_has_a_floor_above_the_known_holes():
    seen = set()
    for requirement in requirements():
        floors = [Version(s.version) for s in requirement.specifier if s.operator == ">="]
        assert len(floors) == 1, requirement
        name = requirement.name.lower()
        seen.add(name)
        if name in SOUND:
            assert floors[0] >= Version(SOUND[name][0]), SOUND[name]
    assert set(SOUND) <= seen


def test_the_floors_are_explained():
    text = (ROOT / "setup.cfg").read_text() + (ROOT / "pyproject.toml").read_text()
    for name, (_, hole) in SOUND.items():
        number = hole.rpartition("-")[2]
        assert re.search(rf"# .*(?:CVE-\d+)?-{number}\b", text), (name, hole)


AUDITED = {"name": "numpy", "version": "2.4.6", "vulns": []}
HOLE = {"id": "PYSEC-1", "fix_versions": ["3.0"]}
UNKNOWN = {"name": "numpy", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("report", "status", "told"),
    [
        ([AUDITED, UNKNOWN], 0, "1 packages without a known hole, 1 not found"),
        ([AUDITED, {**AUDITED, "vulns": [HOLE]}], 1, "numpy 2.4.6: PYSEC-1, mended in 3.0"),
        ([UNKNOWN, UNKNOWN], 0, "could not reach its database"),
        (None, 0, "could not reach its database: no network"),
    ],
)
def test_an_audit_that_could_not_look_does_not_say_all_is_well(tmp_path, report, status, told):
    printed = "" if report is None else json.dumps({"dependencies": report})
    program = tmp_path / "pip-audit"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nlines = open(sys.argv[-1]).read().split()\n"
        "assert any(line.startswith('numpy==') for line in lines), lines\n"
        f"sys.stderr.write('no network\\n')\nsys.stdout.write({printed!r})\n"
    )
    program.chmod(0o755)
    command = [sys.executable, ROOT / ".ci" / "audit.py", program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert told in done.stderr


def test_bill_of_materials_and_checksums(built, tmp_path):
    for path in built:
        shutil.copy(path, tmp_path)
    command = [sys.executable, ROOT / ".ci" / "sbom.py", tmp_path]
    run(command, tmp_path, PYTHONPATH=str(ROOT))
    (bill_file,) = tmp_path.glob("*.cdx.json")
    bill = json.loads(bill_file.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    wheel = tmp_path / built.wheel.name
    main = bill["metadata"]["component"]
    assert main["hashes"][0]["content"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    parts = {part["name"]: part for part in bill["components"]}
    manifest = json.loads((ROOT / "models" / "manifest.json").read_text())
    for model in [*manifest["models"].values(), *manifest["recognizers"].values()]:
        assert parts[model["file"]]["hashes"] == [{"alg": "SHA-256", "content": model["sha256"]}]
    asked = {re.sub(r"[-_.]+", "-", one.name).lower() for one in requirements()} - {"setuptools"}
    assert asked <= set(parts)
    required = {name for name, part in parts.items() if part.get("scope") == "required"}
    assert required == {"numpy", "opencv-python", "tqdm"}
    assert set(bill["dependencies"][0]["dependsOn"]) == {p["bom-ref"] for p in bill["components"]}

    sums = dict(
        reversed(line.split("  ")) for line in (tmp_path / "SHA256SUMS").read_text().splitlines()
    )
    assert set(sums) == {built.wheel.name, built.sdist.name, bill_file.name}
    for name, digest in sums.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run(command, tmp_path, PYTHONPATH=str(ROOT))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_wheel_says_what_it_is_and_nothing_else(built):
    with zipfile.ZipFile(built.wheel) as wheel:
        told = {Path(name).name for name in wheel.namelist() if ".dist-info/" in name}
        assert told == {
            "METADATA",
            "WHEEL",
            "RECORD",
            "entry_points.txt",
            "top_level.txt",
            "LICENSE",
        }
        assert all(info.file_size < 64 << 20 for info in wheel.infolist())
        record = next(name for name in wheel.namelist() if name.endswith("/RECORD"))
        lines = wheel.read(record).decode().splitlines()
        for line in lines:
            name, checksum, _ = line.rsplit(",", 2)
            if name != record:
                digest = hashlib.sha256(wheel.read(name)).digest()
                encoded = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
                assert checksum == f"sha256={encoded}"
        assert len(lines) == len(wheel.namelist())


def test_dev_covers_every_other_extra():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    (everything,) = (line for line in extras["dev"].split() if line.startswith("facepurify["))
    named = everything.removeprefix("facepurify[").removesuffix("]").split(",")
    assert {*named, "dev", "gpu"} == set(extras)
