"""Eigenfaces against a float64 principal component analysis of pixels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facepurify.errors import DataError, OptionError
from facepurify.train import basis_study
from facepurify.train.__main__ import main
from facepurify.train.basis import RGB_TO_YCC, Basis, fit_basis, frequency_energy, zone
from facepurify.train.basis_study import full_basis, luma_eigenfaces, study_basis
from facepurify.train.faces import FaceSet


def pixel_eigenvalues(images: np.ndarray) -> np.ndarray:
    """Eigenvalues of the luma of the images and of their mirror images, by float64 SVD."""
    luma = (images / 255) @ RGB_TO_YCC[0]
    both = np.concatenate([luma, luma[:, :, ::-1]]).reshape(2 * len(luma), -1)
    singular = np.linalg.svd(both - both.mean(axis=0), compute_uv=False)
    return singular**2 / len(both)


def test_eigenvalues_are_those_of_mirrored_pixels(faces: FaceSet) -> None:
    chosen = faces.training[:30]
    energy = frequency_energy(faces.batches(chosen))
    whole = fit_basis(
        faces.batches(chosen, 7), energy, luma=20, chroma=5, luma_zone=2000, chroma_zone=60
    )
    ours = np.sort(np.concatenate([b.eigenvalues for b in whole.luma]))[::-1]
    expected = pixel_eigenvalues(faces.images[chosen])[:20]
    # The zone holds nearly all the energy of these smooth images, never more than there is.
    assert np.all(ours <= expected * (1 + 1e-4))
    assert np.allclose(ours, expected, rtol=2e-3)


def test_components_are_orthonormal_and_fall(basis: Basis) -> None:
    for block in (*basis.luma, *basis.chroma):
        gram = block.components.T @ block.components
        assert np.allclose(gram, np.eye(len(gram)), atol=1e-5)
        assert np.all(np.diff(block.eigenvalues) <= 0)
        assert np.all(np.diff(block.zone) > 0)


def test_blocks_are_symmetric_and_antisymmetric(basis: Basis) -> None:
    mean, eigenfaces = luma_eigenfaces(basis, 20)
    pictures = eigenfaces.reshape(112, 112, -1)
    mirrored = pictures[:, ::-1]
    symmetric = np.isclose(pictures, mirrored, atol=1e-6).all(axis=(0, 1))
    antisymmetric = np.isclose(pictures, -mirrored, atol=1e-6).all(axis=(0, 1))
    assert np.all(symmetric ^ antisymmetric)
    assert symmetric.sum() == len(basis.luma[0].eigenvalues)
    assert np.allclose(eigenfaces.T @ eigenfaces, np.eye(20), atol=1e-5)
    assert np.allclose(mean.reshape(112, 112), mean.reshape(112, 112)[:, ::-1])


def test_first_takes_the_leading_ones_of_either_symmetry(basis: Basis) -> None:
    all_values = np.concatenate([b.eigenvalues for b in basis.luma])
    fewer = basis.first(7, 3)
    kept = np.concatenate([b.eigenvalues for b in fewer.luma])
    assert np.allclose(np.sort(kept), np.sort(all_values)[-7:])
    assert sum(len(b.eigenvalues) for b in fewer.chroma) == 3
    with pytest.raises(DataError, match="expected 1 to 20 eigenfaces, got 21"):
        basis.first(21, 3)


def test_a_saved_basis_loads(basis: Basis, tmp_path: Path) -> None:
    basis.save(tmp_path / "eigenfaces.npz")
    loaded = Basis.load(tmp_path / "eigenfaces.npz")
    for one, other in zip(basis.luma, loaded.luma, strict=True):
        assert np.array_equal(one.zone, other.zone)
        assert np.allclose(one.components, other.components, atol=5e-4)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "eigenfaces.npz").read_bytes()[:500])
    for name in ("cut.npz", "none.npz"):
        with pytest.raises(DataError, match=r"expected a file written by .* eigenfaces"):
            Basis.load(tmp_path / name)


def test_too_few_faces(faces: FaceSet) -> None:
    few = faces.training[:5]
    energy = frequency_energy(faces.batches(few))
    with pytest.raises(DataError, match="more faces than eigenfaces"):
        fit_basis(faces.batches(few), energy, luma=5, chroma=2, luma_zone=50, chroma_zone=20)
    with pytest.raises(DataError, match="at least one face"):
        frequency_energy([])


def test_zone_prefers_energy() -> None:
    energy = np.array([0.0, 3.0, 1.0, 3.0, 2.0])
    assert zone(energy, 3).tolist() == [1, 3, 4]


def test_study_compares_with_the_full_basis(
    basis: Basis, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(basis_study, "COUNTS", (5, 20))
    study_basis(basis, faces, tmp_path)
    rows = json.loads((tmp_path / "basis.json").read_text())
    for name in ("full, float64", "shipped"):
        kept, error = rows[name]["energy kept"], rows[name]["error, grey levels"]
        assert kept[0] < kept[1] < 1
        assert error[0] > error[1] > 0
    assert (tmp_path / "basis.png").stat().st_size > 5000


def test_the_full_basis_is_that_of_a_float64_svd(faces: FaceSet) -> None:
    mean, eigenfaces = full_basis(faces, 10)
    luma = ((faces.images[faces.training] / 255) @ RGB_TO_YCC[0]).reshape(len(faces.training), -1)
    assert np.allclose(mean, luma.mean(axis=0))
    expected = np.linalg.svd(luma - luma.mean(axis=0), full_matrices=False)[2][:10]
    assert np.allclose(np.abs(np.sum(eigenfaces.T * expected, axis=1)), 1, atol=1e-6)


def test_a_study_of_too_little_is_not_begun(
    folders: list[Path], basis: Basis, faces: FaceSet, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match="at least 100 luma eigenfaces to study, got 20"):
        study_basis(basis, faces, tmp_path)
    data = ["--data", *map(str, folders), "--cache", "cache"]
    assert main(["eigenfaces", *data, "--luma", "50", "--study", "study"]) == 1
    assert "at least 100 luma eigenfaces to study, got 50" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    nobody = replace(faces, held_out=np.zeros(len(faces), bool))
    monkeypatch.setattr(basis_study, "COUNTS", (5, 20))
    with pytest.raises(DataError, match="some are held out"):
        study_basis(basis, nobody, tmp_path)
    assert main(["eigenfaces", *data, "-o", "nowhere/eigenfaces.npz"]) == 1
    assert "expected a folder to write eigenfaces.npz into" in capsys.readouterr().err


def test_sizes_of_nothing_are_refused(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "eigenfaces.npz"
    command = ["eigenfaces", "--data", *map(str, folders), "--cache", str(tmp_path), "-o", str(out)]
    assert main([*command, "--chroma", "0", "--luma-zone", "-3"]) == 1
    assert "sizes of 1 or more, got chroma 0, luma_zone -3" in capsys.readouterr().err
