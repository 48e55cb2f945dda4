"""A little training set: folders of smooth random "faces", two of identities and one flat."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from facepurify.bench.recognizers import Recognizer
from facepurify.bench.shipped import shipped_recognizer
from facepurify.train import attack_pack
from facepurify.train.attack_pack import AttackPack, make_pack
from facepurify.train.basis import Basis, fit_basis, frequency_energy
from facepurify.train.faces import FaceSet, load_faces
from tests.bench.small_nets import recognizer_model


def smooth_face(rng: np.random.Generator) -> np.ndarray:
    coarse = rng.integers(40, 216, (9, 9, 3), dtype=np.uint8)
    return cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("faces")
    for person in range(24):
        folder = root / "people" / f"p{person:02}"
        folder.mkdir(parents=True)
        for number in range(3):
            cv2.imwrite(str(folder / f"{number}.png"), smooth_face(rng))
    (root / "flat").mkdir()
    for number in range(12):
        cv2.imwrite(str(root / "flat" / f"{number:02}.png"), smooth_face(rng))
    return [root / "people", root / "flat"]


@pytest.fixture(scope="session")
def faces(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    return load_faces(folders, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def basis(faces: FaceSet) -> Basis:
    energy = frequency_energy(faces.batches(faces.training))
    return fit_basis(
        faces.batches(faces.training), energy, luma=20, chroma=12, luma_zone=90, chroma_zone=40
    )


@pytest.fixture(scope="session")
def guide_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("guide") / "guide.onnx"
    onnx.save(recognizer_model(), path)
    return path


@pytest.fixture(scope="session")
def guide(guide_file: Path) -> Recognizer:
    return Recognizer.from_onnx(guide_file)


@pytest.fixture(scope="session")
def kinds() -> dict[str, float]:
    """Mostly attacks of fine grain: in a few steps on twelve faces a net learns of these."""
    return {"fgsm": 0.2, "pgd": 0.3, "mim": 0.1, "dim": 0.1, "tim": 0.1, "blocks": 0.2}


@pytest.fixture(scope="session")
def pack(faces: FaceSet, guide: Recognizer, kinds: dict[str, float]) -> AttackPack:
    return make_pack(faces, [guide, guide], 12, kinds=kinds, batch=4)


@pytest.fixture(scope="session")
def shipped() -> Recognizer:
    """The recognizer that the package ships, with longer embeddings than ``guide``."""
    return Recognizer.from_onnx(shipped_recognizer())


@pytest.fixture
def as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack's faces without other histories: few enough to be learnt by heart."""
    monkeypatch.setattr(attack_pack, "with_history", lambda clean, attacked, _: (clean, attacked))
