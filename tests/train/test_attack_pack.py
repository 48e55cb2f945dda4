"""Making a pack of attacks: what is refused, who impersonates whom, and how it goes on."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from facepurify.bench.cache import Cache
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import DataError, OptionError
from facepurify.train import attack_pack
from facepurify.train.__main__ import main
from facepurify.train.attack_pack import AttackPack, make_pack
from facepurify.train.faces import FaceSet


def test_a_pack_needs_faces_and_guides_that_names_tell_apart(
    faces: FaceSet, guide: Recognizer, shipped: Recognizer
) -> None:
    with pytest.raises(DataError, match=r"from 1 to \d+ training faces to attack, got 1 and 0"):
        make_pack(faces, [guide], 0)
    another = copy.copy(shipped)
    another.name = guide.name
    with pytest.raises(OptionError, match="got two called guide: rename a file"):
        make_pack(faces, [guide, another], 4)


def test_strengths_are_those_that_were_asked_for(faces: FaceSet, guide: Recognizer) -> None:
    pack = make_pack(faces, [guide], 12, strengths=(2, 2, 3))
    assert set(pack.strength) == {2, 3}
    changed = abs(pack.attacked.astype(int) - pack.clean).max(axis=(1, 2, 3))
    assert (changed <= pack.strength).all()
    assert changed.any()
    for wrong in ((), (0, 2), (8, 13)):
        with pytest.raises(OptionError, match="strengths from 1 to 12"):
            make_pack(faces, [guide], 2, strengths=wrong)


def test_nobody_impersonates_himself(
    faces: FaceSet, guide: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own: list[bool] = []

    def attack(embed, images, anchor, goal, eps, *, generator):
        if goal == "impersonation":
            own.append(torch.allclose(embed(images), anchor, atol=1e-3))
        return images

    monkeypatch.setattr(attack_pack, "_with_steps", lambda family, steps: attack)
    for seed in range(8):
        make_pack(faces, [guide], 2, seed=seed, batch=1)
    assert own == [False] * 8


def test_attacks_go_on_where_they_were_stopped(
    folders: list[Path], faces: FaceSet, guide: Recognizer, guide_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    command = ["attacks", "--data", *map(str, folders), "--cache", "cache", "--count", "40"]
    assert main([*command, "--guide", "none.onnx", "-o", "nowhere/attacks.npz"]) == 1
    assert "expected a folder to write attacks.npz into" in capsys.readouterr().err
    command += ["--guide", str(guide_file)]
    begun = 0
    with_steps = attack_pack._with_steps

    def stopped(family: str, steps: int):
        nonlocal begun
        begun += 1
        if begun == 2:
            raise KeyboardInterrupt
        return with_steps(family, steps)

    monkeypatch.setattr(attack_pack, "_with_steps", stopped)
    with pytest.raises(KeyboardInterrupt):
        main(command)
    assert main([*command, "--data", "none"]) == 1  # before anything is read
    assert "a part of a pack already: continue it with --resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert begun == 3  # the first of two batches was kept
    whole = make_pack(faces, [guide], 40)
    assert np.array_equal(AttackPack.load("attacks.npz").attacked, whole.attacked)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attacks.npz", "cache"]


def test_batches_of_another_pack_are_not_taken(
    faces: FaceSet, guide: Recognizer, tmp_path: Path
) -> None:
    kept = Cache(tmp_path)
    make_pack(faces, [guide], 4, kept=kept)
    other = make_pack(faces, [guide], 4, seed=1, kept=kept)
    assert np.array_equal(other.attacked, make_pack(faces, [guide], 4, seed=1).attacked)


def test_every_so_manieth_face_keeps_what_belongs_to_it(faces: FaceSet, guide: Recognizer) -> None:
    pack = make_pack(faces, [guide], 5)
    some = pack.every(2)
    assert len(some) == 3
    rows = torch.tensor([0, 2, 4])
    for mirrored in (False, True):
        for mine, whole in zip(
            some.images(torch.arange(3), mirrored=mirrored),
            pack.images(rows, mirrored=mirrored),
            strict=True,
        ):
            assert torch.equal(mine, whole)
        assert torch.equal(
            some.embedded(0, torch.arange(3), mirrored=mirrored),
            pack.embedded(0, rows, mirrored=mirrored),
        )
    assert some.strength.tolist() == pack.strength[::2].tolist()
    assert some.victim.tolist() == pack.victim[::2].tolist()


def test_a_pack_knows_whom_each_attack_was_made_on(
    faces: FaceSet, guide: Recognizer, shipped: Recognizer, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    attacked: list[int] = []

    def attack(embed, images, anchor, goal, eps, *, generator):
        attacked.extend([anchor.shape[1]] * len(images))
        return images

    monkeypatch.setattr(attack_pack, "_with_steps", lambda family, steps: attack)
    make_pack(faces, [guide, shipped], 10, batch=2).save(tmp_path / "pack.npz")
    pack = AttackPack.load(tmp_path / "pack.npz")
    assert [(guide.dim, shipped.dim)[each] for each in pack.victim] == attacked
    generator = torch.Generator().manual_seed(0)
    assert set(pack.draw(200, generator).rows.tolist()) == set(range(10))
    assert set(pack.draw(200, generator, victim=1).rows.tolist()) == {2, 3, 6, 7}


def test_a_guide_that_nothing_was_made_on(
    faces: FaceSet, guide: Recognizer, shipped: Recognizer
) -> None:
    few = make_pack(faces, [guide, shipped], 4)  # one batch, of the first one
    few.check_victims([0])
    with pytest.raises(OptionError, match=f"expected attacks on {shipped.name} in the pack, got"):
        few.check_victims([0, 1])


@pytest.mark.parametrize(
    ("family", "name"), [("pgd", "pgd5"), ("pgd40", "pgd40"), ("fgsm", "fgsm"), ("mim", "mim5")]
)
def test_steps_are_drawn_unless_they_were_given(family: str, name: str) -> None:
    assert attack_pack._with_steps(family, 5).name == name


def test_packs_are_put_together_in_order(
    faces: FaceSet, guide: Recognizer, shipped: Recognizer
) -> None:
    packs = [make_pack(faces, [guide, shipped], count, batch=2, seed=count) for count in (3, 6)]
    whole = AttackPack.joined(packs)
    assert len(whole) == 9
    assert whole.victim.tolist() == [0, 0, 1, 0, 0, 1, 1, 0, 0]
    for pack, rows in zip(packs, (torch.arange(3), torch.arange(3, 9)), strict=True):
        own = torch.arange(len(pack))
        for mirrored in (False, True):
            for there, here in zip(
                whole.images(rows, mirrored=mirrored),
                pack.images(own, mirrored=mirrored),
                strict=True,
            ):
                assert torch.equal(there, here)
            for place in (0, 1):
                seen = whole.embedded(place, rows, mirrored=mirrored)
                assert torch.equal(seen, pack.embedded(place, own, mirrored=mirrored))
        assert np.array_equal(whole.strength[rows.numpy()], pack.strength)


def test_packs_of_other_guides_are_not_put_together(
    faces: FaceSet, guide: Recognizer, shipped: Recognizer
) -> None:
    packs = [make_pack(faces, order, 2) for order in ([guide, shipped], [shipped, guide])]
    same, shorter = packs[0], tuple(each[..., :-1] for each in packs[0].embeddings)
    for other in (packs[1], replace(same, embeddings=shorter)):
        with pytest.raises(OptionError, match="same guides in the same order, got"):
            AttackPack.joined([same, other])


def test_a_guide_of_that_name_that_only_the_first_of_two_packs_knows(
    pack: AttackPack, guide: Recognizer
) -> None:
    strange = replace(pack, embeddings=tuple(-each for each in pack.embeddings))
    with pytest.raises(OptionError, match="got another recognizer of that name"):
        AttackPack.joined([pack, strange]).index(guide)


def test_another_pack_has_another_digest(pack: AttackPack) -> None:
    attacked = pack.attacked.copy()
    attacked[0, 0, 0, 0] ^= 1
    assert pack.digest == replace(pack, attacked=pack.attacked.copy()).digest
    assert pack.digest != replace(pack, attacked=attacked).digest
    assert pack.digest != replace(pack, guides=tuple(f"{name}2" for name in pack.guides)).digest
