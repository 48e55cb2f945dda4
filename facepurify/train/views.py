"""More faces for a student than a set has, each with what its teacher sees in that very image.

A student of few faces learns them by heart. It learns the teacher's function instead where the
teacher has looked at the same image, and at images between the faces (Beyer et al., "Knowledge
distillation: A good teacher is patient and consistent", CVPR 2022, arXiv 2106.05237).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from facepurify.bench.recognizers import Recognizer
from facepurify.files import atomic_path
from facepurify.images import SIZE
from facepurify.train.faces import FaceSet, as_batch

__all__ = ["Views", "make_views", "view"]

DEGREES = 10.0
SCALES = (0.9, 1.1)
PIXELS = 4.0
BLENDED = 0.5
SHARES = (0.3, 0.7)
BATCH = 256
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Views:
    """Images made of faces, with a teacher's embeddings of them.

    Attributes:
        images: uint8 [N, 112, 112, 3] RGB, memory-mapped.
        targets: unit embeddings [N, d].
    """

    images: Bytes
    targets: Floats

    def __len__(self) -> int:
        return len(self.images)


def make_views(
    teacher: Recognizer, faces: FaceSet, cache: str | Path, *, each: int, seed: int = 0
) -> Views:
    """Some views of each face that is trained on, half of them blended with another's.

    They are kept in ``cache`` for later runs on the same faces (38 KB a view).

    Args:
        teacher: the recognizer that looks at them.
        faces: those that are not held out are viewed.
        cache: a folder.
        each: views of a face.
        seed: of the draws.
    """
    training = faces.training
    about = (teacher.sha256, str(each), str(seed), *(faces.names[i] for i in training))
    digest = hashlib.sha256("\n".join(about).encode()).hexdigest()[:16]
    pixels, targets = Path(cache) / f"views-{digest}.raw", Path(cache) / f"views-{digest}.npy"
    shape = (each * len(training), SIZE, SIZE, 3)
    if not (pixels.exists() and targets.exists()):
        rng = np.random.default_rng(seed)
        order = rng.permutation(np.repeat(training, each))
        parts = []
        with atomic_path(pixels) as temporary, temporary.open("wb") as out:
            for images in tqdm(
                faces.batches(order, BATCH), desc="views", total=-(-len(order) // BATCH)
            ):
                views = _blend(np.stack([view(image, rng) for image in images]), rng)
                parts.append(teacher.embed_numpy(as_batch(views)))
                out.write(views.tobytes())
        with atomic_path(targets) as temporary:
            np.save(temporary, np.concatenate(parts))
    return Views(np.memmap(pixels, np.uint8, "r", shape=shape), np.load(targets))


def view(image: Bytes, rng: np.random.Generator) -> Bytes:
    """A face, perhaps mirrored, turned by up to 10 degrees, scaled by up to a tenth and moved.

    Args:
        image: uint8 [112, 112, 3].
        rng: of the draws.

    Returns:
        The same shape; what comes in at an edge repeats that edge.
    """
    centre = (SIZE - 1) / 2
    turn = (rng.uniform(-DEGREES, DEGREES), rng.uniform(*SCALES))
    matrix = np.asarray(cv2.getRotationMatrix2D((centre, centre), *turn), np.float64)
    matrix[:, 2] += rng.uniform(-PIXELS, PIXELS, 2)
    if rng.random() < 0.5:
        image = image[:, ::-1]
    turned = cv2.warpAffine(
        np.ascontiguousarray(image), matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(turned, np.uint8)


def _blend(views: Bytes, rng: np.random.Generator) -> Bytes:
    """Each second view becomes a weighted mean of itself and the next one."""
    share = rng.uniform(*SHARES, (len(views), 1, 1, 1)).astype(np.float32)
    share[rng.random(len(views)) >= BLENDED] = 1
    blended: Bytes = np.rint(share * views + (1 - share) * np.roll(views, 1, axis=0)).astype("u1")
    return blended
