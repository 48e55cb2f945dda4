"""More images of the faces, and what a teacher sees in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facepurify.bench.recognizers import Recognizer
from facepurify.train import views
from facepurify.train.faces import FaceSet, as_batch
from facepurify.train.views import make_views, view


def test_the_targets_are_of_the_very_views(
    guide: Recognizer, faces: FaceSet, tmp_path: Path
) -> None:
    made = make_views(guide, faces, tmp_path, each=2)
    assert len(made) == 2 * len(faces.training)
    np.testing.assert_allclose(
        made.targets, guide.embed_numpy(as_batch(np.asarray(made.images))), atol=1e-5
    )
    # No view is the face itself, and no two are alike.
    everything = {image.tobytes() for image in made.images}
    assert len(everything) == len(made)
    assert everything.isdisjoint(image.tobytes() for image in faces.images)


def test_views_are_made_once(
    guide: Recognizer, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_views(guide, faces, tmp_path, each=1)
    other = make_views(guide, faces, tmp_path, each=1, seed=1)
    assert (first.images != other.images).any()
    monkeypatch.setattr(views, "view", None)
    again = make_views(guide, faces, tmp_path, each=1)
    np.testing.assert_array_equal(again.images, first.images)
    np.testing.assert_array_equal(again.targets, first.targets)


def test_what_was_stopped_half_way_leaves_nothing(
    guide: Recognizer, faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(views, "_blend", stop)
        with pytest.raises(KeyboardInterrupt):
            make_views(guide, faces, tmp_path, each=1)
    assert not list(tmp_path.iterdir())
    assert len(make_views(guide, faces, tmp_path, each=1)) == len(faces.training)


def test_a_view_keeps_the_face_in_its_place() -> None:
    rng = np.random.default_rng(0)
    marked = np.zeros((112, 112, 3), np.uint8)
    marked[52:60, 52:60] = 255
    seen = np.stack([view(marked, rng) for _ in range(200)])[..., 0] > 127
    rows, columns = (np.argwhere(one).mean(axis=0) for one in (seen.any(2), seen.any(1)))
    assert rows[1] == pytest.approx(55.5, abs=1)
    assert columns[1] == pytest.approx(55.5, abs=1)
    sizes = seen.sum(axis=(1, 2)) / 64
    assert 0.75 < sizes.min() < 0.9
    assert 1.1 < sizes.max() < 1.3
    for one in seen:
        assert np.abs(np.argwhere(one).mean(axis=0) - 55.5).max() < 5
