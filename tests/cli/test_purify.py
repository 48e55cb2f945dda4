"""``python -m facepurify purify``, from files to files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from facepurify import ModelNotFoundError, Purifier
from facepurify.cli.finding import FaceFinder, default_pack
from facepurify.imagefiles import read_image, write_image


def images(folder: Path) -> list[str]:
    """The names of the images in a folder, half written ones included."""
    return sorted(path.name for path in folder.iterdir() if "facepurify-" not in path.name)


def test_an_aligned_crop(run, crop_file, tiny_model, tmp_path):
    output = tmp_path / "new" / "folder"
    status, out, err = run("purify", crop_file, "-o", output, "--model", tiny_model)
    assert (status, err) == (0, "")
    assert out.endswith("\npurified 1 face(s) in 1 of 1 image(s) with tiny\n")
    expected = Purifier(tiny_model).purify(read_image(crop_file).pixels)
    np.testing.assert_array_equal(read_image(output / "crop.png").pixels, expected)


def test_options_reach_the_purifier(run, crop_file, tiny_model, tmp_path):
    for mask, seed in (("fixed", None), ("sampled", 7)):
        output = tmp_path / f"{mask}.png"
        options = ["--mask", mask, *(["--seed", seed] if seed else [])]
        run("purify", crop_file, "-o", output, "--model", tiny_model, *options)
        expected = Purifier(tiny_model, mask=mask).purify(read_image(crop_file).pixels, seed=seed)
        np.testing.assert_array_equal(read_image(output).pixels, expected)


def test_a_photo_keeps_what_is_no_face(run, photo, landmarks, detector, tiny_model, tmp_path):
    write_image(tmp_path / "photo.png", photo)
    output = tmp_path / "out.png"
    status, out, _ = run("purify", tmp_path / "photo.png", "-o", output, "--model", tiny_model)
    assert (status, out) == (0, "purified 6 face(s) in 1 of 1 image(s) with tiny\n")
    expected = Purifier(tiny_model).purify(photo, landmarks=landmarks)
    np.testing.assert_array_equal(read_image(output).pixels, expected)
    assert 0 < (expected != photo).any(2).mean() < 0.5


def test_formats_alpha_and_grey_are_kept(run, crop_file, invert_model, tmp_path):
    pixels = read_image(crop_file).pixels
    alpha = pixels[..., 0] // 2 + 1
    folder = crop_file.parent
    write_image(folder / "alpha.webp", pixels, alpha=alpha)
    write_image(folder / "grey.png", pixels[..., 1])
    write_image(folder / "lossy.webp", pixels, lossless=False)
    write_image(folder / "photo.JPG", pixels)
    output = tmp_path / "out"
    assert run("purify", folder, "-o", output, "--model", invert_model)[0] == 0
    assert images(output) == [
        "alpha.webp",
        "crop.png",
        "grey.png",
        "lossy.webp",
        "photo.JPG",
    ]
    result = read_image(output / "alpha.webp")
    np.testing.assert_array_equal(result.pixels, 255 - pixels)
    np.testing.assert_array_equal(result.alpha, alpha)
    np.testing.assert_array_equal(read_image(output / "grey.png").pixels, 255 - pixels[..., 1])
    assert not read_image(output / "lossy.webp").lossless


def test_one_bad_file_does_not_stop_the_rest(run, crop_file, tiny_model, tmp_path):
    folder = crop_file.parent
    (folder / "a-bad.png").write_bytes(b"no image")
    write_image(folder / "b-wide.png", np.zeros((112, 200, 3), np.uint8))
    cv2.imwrite(str(folder / "z-deep.png"), np.zeros((112, 112, 3), np.uint16))
    output = tmp_path / "out"
    status, out, err = run("purify", folder, "-o", output, "--model", tiny_model)
    assert status == 1
    assert "purified 1 face(s) in 1 of 4 image(s)" in out
    assert images(output) == ["crop.png"]
    first, *lines = err.splitlines()
    assert first == "3 image(s) failed, nothing was written for them:"
    bad, wide, deep = lines
    assert bad.startswith(f"  {folder / 'a-bad.png'}: expected a JPEG, PNG or WebP file")
    assert wide.startswith(f"  {folder / 'b-wide.png'}: expected a square aligned face crop, got")
    assert "facepurify[insightface]" in wide
    assert deep.endswith("expected 8 bits a channel, got 16; convert it to 8")


def test_photos_without_a_face(run, photo, detector, crop_file, tiny_model, tmp_path):
    write_image(crop_file.parent / "photo.png", photo)
    output = tmp_path / "out"
    arguments = ["purify", crop_file.parent, "-o", output, "--model", tiny_model]
    status, _, err = run(*arguments)
    assert status == 1
    assert f"{crop_file}: expected a face, found none" in err
    assert images(output) == ["photo.png"]
    status, out, err = run(*arguments, "--keep-faceless", "--overwrite")
    assert (status, err) == (0, "")
    assert "copied 1 image(s) without a face as they are" in out
    assert (output / "crop.png").read_bytes() == crop_file.read_bytes()


def test_a_faceless_photo_becomes_what_its_new_name_says(run, detector, crop_file, tiny_model):
    target = crop_file.parent / "same.jpg"
    arguments = ["purify", crop_file, "-o", target, "--model", tiny_model, "--keep-faceless"]
    assert run(*arguments)[0] == 0
    assert read_image(target).format == "JPEG"


def test_it_says_that_photos_are_taken_as_crops(run, crop_file, tiny_model, tmp_path):
    arguments = ["purify", crop_file, "-o", tmp_path / "out", "--model", tiny_model]
    assert run(*arguments)[1].startswith("no model pack is here to find faces with: ")
    assert run(*arguments, "--aligned", "--overwrite")[1].startswith("purified 1 face(s)")


def test_nobody_says_where_the_user_is_at_home(run, crop_file, tiny_model, tmp_path, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert run("purify", crop_file, "-o", tmp_path / "out", "--model", tiny_model)[0] == 0


def test_a_home_that_this_process_may_not_look_into(
    run, crop_file, tiny_model, tmp_path, monkeypatch
):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", forbidden)
        assert default_pack() is None
        with pytest.raises(ModelNotFoundError, match="expected the folder of an insightface pack"):
            FaceFinder(tmp_path / "no")


def test_nothing_is_replaced_unasked(run, crop_file, tiny_model, tmp_path):
    before = crop_file.read_bytes()
    in_place = ["purify", crop_file, "-o", crop_file, "--model", tiny_model]
    status, _, err = run(*in_place)
    assert status == 1
    assert "expected another file than the input" in err
    assert crop_file.read_bytes() == before

    elsewhere = ["purify", crop_file, "-o", tmp_path / "out", "--model", tiny_model]
    assert run(*elsewhere)[0] == 0
    status, _, err = run(*elsewhere)
    assert status == 1
    assert "exists; --overwrite replaces it" in err
    assert "replaced" not in run(*elsewhere, "--overwrite")[1]

    status, out, _ = run(*in_place, "--overwrite")
    assert status == 0
    assert "replaced 1 input file(s)" in out
    assert crop_file.read_bytes() == (tmp_path / "out" / "crop.png").read_bytes()


def test_a_folder_that_cannot_be_made(run, crop_file, tiny_model, tmp_path):
    (tmp_path / "out").write_bytes(b"a file")
    arguments = ["purify", crop_file, "--model", tiny_model]
    status, _, err = run(*arguments, "-o", tmp_path / "out")
    assert status == 1
    assert "expected a folder for the results" in err
    status, _, err = run(*arguments, "-o", tmp_path / "out" / "deeper")
    assert status == 1
    assert f"could not make the folder {tmp_path / 'out' / 'deeper'}" in err


def test_a_copy_that_fails(run, detector, crop_file, tiny_model, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    output = tmp_path / "out"
    status, _, err = run(
        "purify", crop_file, "-o", output, "--model", tiny_model, "--keep-faceless"
    )
    assert status == 1
    assert "could not write" in err
    assert "No space left on device" in err
    assert images(output) == []


def test_a_faceless_photo_in_place_stays(run, photo, detector, crop_file, tiny_model):
    before = crop_file.read_bytes()
    arguments = ["purify", crop_file, "-o", crop_file, "--model", tiny_model, "--overwrite"]
    status, out, _ = run(*arguments, "--keep-faceless")
    assert status == 0
    assert "replaced" not in out
    assert crop_file.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "nonesuch.onnx"], "nonesuch.onnx"),
        (["--provider", "NoSuchProvider"], "NoSuchProvider"),
        (["--threads", "0"], "expected threads >= 1"),
        (["--pack", "no/such/folder"], "expected the folder of an insightface pack"),
    ],
)
def test_what_stops_the_command(run, crop_file, tiny_model, tmp_path, options, message):
    if options[0] == "--pack":
        pytest.importorskip("insightface", reason="needs insightface")
    model = [] if "--model" in options else ["--model", tiny_model]
    status, out, err = run("purify", crop_file, "-o", tmp_path / "out", *model, *options)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_pack_without_a_detector(run, crop_file, tiny_model, tmp_path):
    pytest.importorskip("insightface", reason="needs insightface")
    (tmp_path / "pack").mkdir()
    status, _, err = run(
        "purify",
        crop_file,
        "-o",
        tmp_path / "o",
        "--model",
        tiny_model,
        "--pack",
        tmp_path / "pack",
    )
    assert status == 1
    assert "expected a face detector in" in err


def test_a_pack_without_insightface(run, crop_file, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "insightface.app", None)
    status, _, err = run(
        "purify", crop_file, "-o", tmp_path / "out", "--model", tiny_model, "--pack", tmp_path
    )
    assert status == 1
    assert 'pip install "facepurify[insightface]"' in err


def test_faces_found_by_insightface(run, pack, photo, home, tiny_model, tmp_path):
    write_image(tmp_path / "photo.png", photo)
    arguments = ["purify", tmp_path / "photo.png", "--model", tiny_model]
    status, out, _ = run(*arguments, "-o", tmp_path / "named.png", "--pack", pack)
    assert (status, out) == (0, "purified 6 face(s) in 1 of 1 image(s) with tiny\n")

    from insightface.utils import DEFAULT_MP_NAME

    models = home / ".insightface" / "models"
    models.mkdir(parents=True)
    (models / DEFAULT_MP_NAME).symlink_to(pack)
    assert run(*arguments, "-o", tmp_path / "default.png")[0] == 0
    named, default = (tmp_path / f"{name}.png" for name in ("named", "default"))
    assert named.read_bytes() == default.read_bytes()

    status, _, err = run(*arguments, "-o", tmp_path / "aligned.png", "--aligned")
    assert status == 1
    assert "expected a square aligned face crop, got 1280x886" in err


def test_a_grey_photo_found_by_insightface(run, pack, photo, tiny_model, tmp_path):
    grey = cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)
    write_image(tmp_path / "grey.png", grey)
    output = tmp_path / "out.png"
    run("purify", tmp_path / "grey.png", "-o", output, "--model", tiny_model, "--pack", pack)
    assert read_image(output).pixels.shape == grey.shape


def test_real_photos(run, pack, shared, tiny_model, tmp_path):
    import zipfile

    with zipfile.ZipFile(shared / "data" / "photos_250.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))[:10]
        archive.extractall(tmp_path / "in", names)
    output = tmp_path / "out"
    status, out, _ = run(
        "purify", tmp_path / "in", "-o", output, "--model", tiny_model, "--pack", pack
    )
    assert status == 0
    assert "in 10 of 10 image(s)" in out
    assert len(list(output.rglob("*.jpg"))) == 10


def test_a_detector_that_fails_stops_one_file_only(run, pack, tiny_model, tmp_path):
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "sliver.png", np.zeros((1, 5000, 3), np.uint8))
    status, _, err = run(
        "purify", tmp_path / "in", "-o", tmp_path / "o", "--model", tiny_model, "--pack", pack
    )
    assert status == 1
    assert "sliver.png: the face detector failed" in err


@pytest.mark.parametrize("seed", ["-1", "1.5"])
def test_a_wrong_seed_leaves_no_note(run, crop_file, tiny_model, tmp_path, seed):
    output = tmp_path / "out"
    for command, target in (("purify", output), ("inspect", tmp_path / "sheet.png")):
        with pytest.raises(SystemExit) as stop:
            run(command, crop_file, "-o", target, "--model", tiny_model, "--seed", seed)
        assert stop.value.code == 2
        assert not target.exists()


def test_a_budget_that_is_none(run, crop_file, capsys):
    with pytest.raises(SystemExit):
        run("purify", crop_file, "-o", "o", "--budget", "32")
    assert "expected clones and generations, such as 32x4, got '32'" in capsys.readouterr().err


def test_usage_errors(run, crop_file):
    for arguments in ([], ["purify", crop_file], ["purify", crop_file, "-o", "o", "--mask", "no"]):
        with pytest.raises(SystemExit) as stop:
            run(*arguments)
        assert stop.value.code == 2


def test_as_a_process(crop_file, tiny_model, tmp_path):
    command = [sys.executable, "-m", "facepurify", "purify", crop_file, "-o", tmp_path / "out"]
    done = subprocess.run([*command, "--model", tiny_model], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    again = subprocess.run([*command, "--model", tiny_model], capture_output=True, text=True)
    assert again.returncode == 1
