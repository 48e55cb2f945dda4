"""What a wheel and an sdist hold, and that an installed wheel works away from the checkout."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

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


def test_dev_covers_every_other_extra():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    (everything,) = (line for line in extras["dev"].split() if line.startswith("facepurify["))
    named = everything.removeprefix("facepurify[").removesuffix("]").split(",")
    assert {*named, "dev", "gpu"} == set(extras)
