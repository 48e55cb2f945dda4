"""``inspect`` and ``demo``, and the sheets that they draw."""

from __future__ import annotations

import os

import numpy as np
import pytest

from facepurify import align
from facepurify.cli.sheet import Panel, draw_sheet, panels_of, verdict
from facepurify.imagefiles import read_image, write_image
from facepurify.inspection import compare

BLACK = np.zeros((112, 112, 3), np.uint8)
WHITE = np.full((112, 112, 3), 255, np.uint8)


def test_a_sheet_shows_each_picture_in_its_place():
    sheet = draw_sheet("title", ["a", "b"], [[Panel(BLACK), Panel(WHITE)]] * 2, side=112)
    assert sheet.dtype == np.uint8
    columns = np.flatnonzero((sheet == 0).all(2).sum(0) >= 224)
    rows = np.flatnonzero((sheet == 0).all(2).sum(1) >= 112)
    assert (len(columns), len(rows)) == (112, 224)
    assert (sheet[rows[0] : rows[0] + 112, columns[-1] + 9 : columns[-1] + 121] == 255).all()


def test_grey_and_other_sizes_fit():
    row = [Panel(np.zeros((500, 500), np.uint8)), Panel(np.zeros((10, 10, 3), np.uint8))]
    sheet = draw_sheet("title", ["a", "b"], [row], side=100)
    assert (sheet == 0).all(2).sum() >= 2 * 100 * 100


def test_alarms_are_red_and_notes_are_written():
    def red(sheet):
        wide = sheet.astype(int)
        return (wide[..., 2] - wide[..., 0] > 100).sum()

    calm, alarmed = (
        draw_sheet("", [""], [[Panel(BLACK, "suspicious", alarm)]]) for alarm in (False, True)
    )
    assert red(calm) == 0 < red(alarmed)
    plain, noted = (draw_sheet("", [""], [[Panel(BLACK)]], notes) for notes in ([], ["a note"]))
    assert noted.shape[0] > plain.shape[0]


def test_long_lines_stay_on_the_sheet():
    sheet = draw_sheet("a very long title " * 20, ["a very long heading " * 9], [[Panel(BLACK)]])
    assert (sheet[:, -20:] == sheet[0, 0]).all()


@pytest.mark.parametrize(
    ("score", "threshold", "words"),
    [
        (None, 0.5, "no score"),
        (0.25, None, "score 0.250"),
        (0.25, 0.5, "score 0.250: inconspicuous"),
        (0.5, 0.5, "score 0.500: suspicious"),
    ],
)
def test_verdict(score, threshold, words):
    inspection = compare(BLACK, WHITE, score=score, threshold=threshold)
    assert verdict(inspection) == words
    before, after, removed = panels_of(inspection)
    assert before.alarm == (words == "score 0.500: suspicious")
    assert after.picture is WHITE
    assert (removed.picture == 255).all()


def test_inspect_a_crop(run, crop_file, tiny_model, tmp_path):
    sheet = tmp_path / "sheet.png"
    arguments = ["inspect", crop_file, "-o", sheet, "--model", tiny_model]
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    score = read_image(crop_file).pixels.mean() / 255
    face, drawn = out.splitlines()
    assert face.startswith(f"face 1: score {score:.3f}, antibody of ")
    assert face.partition(" in ")[2].startswith("8 eigenfaces, certainty 0.")
    assert drawn == f"drew 1 face(s) on {sheet}"
    assert read_image(sheet).pixels.shape[1] > 3 * 336
    status, _, err = run(*arguments)
    assert status == 1
    assert "exists; --overwrite replaces it" in err
    assert run(*arguments, "--overwrite")[0] == 0


def test_inspect_every_face_of_a_photo(run, photo, landmarks, detector, tiny_model, tmp_path):
    write_image(tmp_path / "photo.png", photo)
    sheet = tmp_path / "sheet.png"
    status, out, _ = run("inspect", tmp_path / "photo.png", "-o", sheet, "--model", tiny_model)
    scores = [align(photo, face).mean() / 255 for face in landmarks]
    expected = [f"face {i}: score {s:.3f}" for i, s in enumerate(scores, start=1)]
    assert status == 0
    *faces, drawn = out.splitlines()
    assert [face.partition(", antibody")[0] for face in faces] == expected
    assert drawn == f"drew 6 face(s) on {sheet}"


def test_inspect_refuses_what_it_cannot_read(run, tmp_path, tiny_model):
    (tmp_path / "bad.png").write_bytes(b"")
    for name in ("bad.png", "missing.png"):
        status, _, err = run(
            "inspect", tmp_path / name, "-o", tmp_path / "sheet.png", "--model", tiny_model
        )
        assert status == 1
        assert name in err


def test_a_name_that_is_not_unicode(run, crop_file, tiny_model, tmp_path):
    odd = crop_file.with_name(os.fsdecode(b"caf\xe9.png"))
    try:
        crop_file.rename(odd)
    except OSError:
        pytest.skip("this system's names are Unicode")
    sheet = tmp_path / os.fsdecode(b"sheet\xe9.png")
    status, out, _ = run("inspect", odd, "-o", sheet, "--model", tiny_model)
    assert (status, sheet.exists()) == (0, True)
    assert "sheet\\udce9.png" in out


def test_letters_that_the_font_has_not():
    plain, odd = (draw_sheet(title, [""], [[Panel(BLACK)]]) for title in ("caf?.png", "café.png"))
    np.testing.assert_array_equal(odd, plain)


def test_a_sheet_never_replaces_its_image(run, crop_file, tiny_model):
    before = crop_file.read_bytes()
    status, _, err = run(
        "inspect", crop_file, "-o", crop_file, "--model", tiny_model, "--overwrite"
    )
    assert status == 1
    assert f"expected another file for the sheet than the image {crop_file}" in err
    assert crop_file.read_bytes() == before


@pytest.mark.parametrize("command", ["inspect", "demo"])
def test_no_sheet_is_drawn_in_vain(run, crop_file, tmp_path, command):
    image = [crop_file] if command == "inspect" else []
    status, _, err = run(
        command, *image, "-o", tmp_path / "sheet.gif", "--model", tmp_path / "nonesuch.onnx"
    )
    assert status == 1
    assert "expected a name that ends in .jpg, .jpeg, .png, .webp, got sheet.gif" in err


def test_demo(run, tiny_model, tmp_path, monkeypatch):
    pytest.importorskip("insightface", reason="needs insightface's bundled photos")
    monkeypatch.chdir(tmp_path)
    status, out, err = run("demo", "--model", tiny_model)
    assert (status, err) == (0, "")
    assert out.startswith("drew t1-1, ")
    assert out.endswith(" on facepurify-demo.png\n")
    first = read_image(tmp_path / "facepurify-demo.png").pixels
    assert run("demo", "--model", tiny_model)[0] == 1
    assert run("demo", "--model", tiny_model, "--overwrite")[0] == 0
    np.testing.assert_array_equal(read_image(tmp_path / "facepurify-demo.png").pixels, first)


def test_demo_draws_the_faces_that_are_asked_for(run, tiny_model, tmp_path):
    pytest.importorskip("insightface", reason="needs its photos")
    sheet = tmp_path / "sheet.png"
    faces = ("--face", "hanks", "--face", "t1-2")
    status, out, _ = run("demo", "--model", tiny_model, "-o", sheet, *faces)
    assert (status, out) == (0, f"drew t1-2, hanks on {sheet}\n")
    whole = tmp_path / "whole.png"
    assert run("demo", "--model", tiny_model, "-o", whole)[0] == 0
    assert read_image(sheet).pixels.shape[0] < read_image(whole).pixels.shape[0]
    status, _, err = run(
        "demo", "--model", tiny_model, "-o", tmp_path / "no.png", "--face", "nobody"
    )
    assert status == 1
    assert "expected --face to be one of t1-1, " in err
    assert "got nobody" in err
    assert not (tmp_path / "no.png").exists()


def test_demo_attacks_the_shipped_recognizer(run, tiny_model, tmp_path, monkeypatch):
    pytest.importorskip("insightface", reason="needs insightface's bundled photos")
    pytest.importorskip("onnx2torch", reason="the attack needs facepurify[bench]")
    from facepurify.cli import demo

    cosines = []

    class Watched(demo.Likeness):
        def embed(self, crops):
            cosines.append(super().embed(crops))
            return cosines[-1]

    monkeypatch.setattr(demo, "Likeness", Watched)
    assert run("demo", "--attack", "--model", tiny_model, "-o", tmp_path / "sheet.png")[0] == 0
    own, *_, attacked, _ = cosines
    # Before any purifier, every face is now far nearer to its victim than it was.
    victims = np.roll(own, -1, axis=0)
    assert ((attacked * victims).sum(1) > (own * victims).sum(1) + 0.2).all()


def test_demo_without_torch_names_the_extra(run, tiny_model, tmp_path, monkeypatch):
    pytest.importorskip("insightface", reason="needs insightface's bundled photos")
    from facepurify import extras

    found = extras.importlib.util.find_spec
    monkeypatch.setattr(
        extras.importlib.util, "find_spec", lambda name: None if name == "torch" else found(name)
    )
    status, _, err = run("demo", "--attack", "--model", tiny_model, "-o", tmp_path / "sheet.png")
    assert status == 1
    assert "facepurify[bench]" in err
    assert not (tmp_path / "sheet.png").exists()


def test_likeness_is_that_of_the_benchmark():
    pytest.importorskip("onnx2torch", reason="needs facepurify[bench]")
    from facepurify.bench.recognizers import Recognizer
    from facepurify.cli.likeness import Likeness

    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)
    likeness = Likeness()
    images = crops[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255
    expected = Recognizer.from_onnx(likeness.path).embed_numpy(images)
    np.testing.assert_allclose(likeness.embed(crops), expected, atol=1e-5)
