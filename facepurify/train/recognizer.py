"""A small recognizer of our own: for measuring and demos, so that both work offline."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn
from tqdm import tqdm

from facepurify.bench.recognizers import Recognizer
from facepurify.errors import DataError, ModelContractError
from facepurify.files import atomic_path
from facepurify.train.arcface import ArcFace
from facepurify.train.distributed import Workers
from facepurify.train.export import to_onnx, write_checked
from facepurify.train.facenet import FaceNet
from facepurify.train.faces import FaceSet, as_batch
from facepurify.train.loop import Loop, checkpoint_in
from facepurify.train.optimiser import Optimiser
from facepurify.train.recover import recover_facenet
from facepurify.train.shares import check_shares
from facepurify.train.stagewise import StageTeacher, run_stages, unexplained

__all__ = [
    "DistillRecipe",
    "augment",
    "distill",
    "embed_faces",
    "export_recognizer",
    "load_facenet",
    "load_net",
    "normalised",
    "teach",
]

PARITY = 1e-3
MEASURED = 256
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DistillRecipe:
    """How the recognizer is trained.

    Attributes:
        steps: of the optimiser.
        batch: images a step.
        rate: peak learning rate of AdamW, one cosine down to zero.
        identity: weight of ArcFace's loss, for the faces that have an identity.
        stagewise: share of the steps, the first ones, in which each stage imitates the teacher's
            from its true input; for teachers of a MobileFaceNet's layout, as the next.
        hints: weight, in the other steps, of what each stage gets wrong in its place.
    """

    steps: int = 20_000
    batch: int = 64
    rate: float = 2.5e-3
    identity: float = 0.01
    stagewise: float = 0.0
    hints: float = 0.0

    def __post_init__(self) -> None:
        check_shares(stagewise=self.stagewise)


def distill(
    net: FaceNet,
    teacher: Recognizer,
    faces: FaceSet,
    recipe: DistillRecipe,
    folder: str | Path,
    *,
    cache: str | Path,
    seed: int = 0,
    resume: bool = False,
    workers: Workers | None = None,
) -> float:
    """Teaches ``net`` the teacher's embeddings by their cosine, labels or not; in place.

    A face is shown as it is or mirrored, shifted by up to 3 pixels and relit; the target is always
    the teacher's mean embedding of the face as it is and mirrored. ArcFace's loss comes on top
    for the faces that have an identity. Stages can be taught as well, by what the teacher's give
    for the face as it is shown: one by one (``recipe.stagewise``), then in their places
    (``recipe.hints``).

    Args:
        net: the student.
        teacher: any recognizer with embeddings of the same length.
        faces: those that are not held out are trained on.
        recipe: how.
        folder: of the run.
        cache: a folder for the teacher's embeddings.
        seed: of the run.
        resume: go on with the run in ``folder``.
        workers: the other processes of the run.

    Returns:
        Mean cosine between the student's and the teacher's embeddings of the held-out faces.

    Raises:
        DataError: the teacher's embeddings have another length, or no face is held out.
        OptionError: the teacher has no maps of the shapes of the student's, to learn stagewise.
    """
    if net.dim != teacher.dim:
        raise DataError(
            f"expected a teacher with embeddings of {net.dim}, got {teacher.dim}: "
            f"build the network with dim={teacher.dim}"
        )
    faces.check_held_out()
    training = faces.training
    targets = torch.from_numpy(teach(teacher, faces, cache))
    labels = torch.from_numpy(faces.labels())
    head = ArcFace(net.dim, int(labels.max()) + 1)
    net.train().to(memory_format=torch.channels_last)
    workers = workers or Workers()
    workers.agree(net)
    workers.agree(head)
    optimiser = Optimiser(
        [*net.parameters(), *head.parameters()], recipe.rate, recipe.steps,
        rise=0.1, decay=1e-2, longest=None, workers=workers,
    )  # fmt: skip
    parts = {"net": net, "head": head, **optimiser.parts}
    loop = Loop(
        workers.folder(folder), parts, recipe, seed=workers.seed(seed), resume=resume,
        sources={"faces": faces.digest, "teacher": teacher.sha256},
    )  # fmt: skip
    stages = [*net.stages, net.embedding]
    tutor = StageTeacher(teacher, net.shapes()) if recipe.stagewise or recipe.hints else None
    for step, generator in loop:
        rows = training[torch.randint(len(training), (recipe.batch,), generator=generator).numpy()]
        blob = augment(torch.from_numpy(faces.images[rows]), generator)
        alone = step < recipe.stagewise * recipe.steps
        shown = tutor.show((blob + 1) / 2) if tutor and (alone or recipe.hints) else None
        outputs = run_stages(stages, blob, shown if alone else None)
        embedding = nn.functional.normalize(outputs[-1])
        wanted = shown[-1] if shown and alone else targets[rows]
        distance = 1 - (embedding * wanted).sum(dim=1).mean()
        identity = head(embedding, labels[rows])
        loss = distance + recipe.identity * identity
        values = {f"stage {number}": math.nan for number in range(1, len(stages))} if tutor else {}
        if shown:
            of_maps = [unexplained(*maps) for maps in zip(outputs[:-1], shown[:-1], strict=True)]
            loss = loss + (1.0 if alone else recipe.hints) * torch.stack(of_maps).sum()
            values = {name: float(one.detach()) for name, one in zip(values, of_maps, strict=True)}
        optimiser.step(loss)
        loop.log(**values, distance=float(distance.detach()), identity=float(identity.detach()))
    net.eval()
    return float(
        (embed_faces(net, faces, faces.validation) * targets[faces.validation]).sum(1).mean()
    )


def embed_faces(net: nn.Module, faces: FaceSet, indices: npt.NDArray[np.intp]) -> Tensor:
    """Unit embeddings [n, d] of some faces."""
    with torch.inference_mode():
        return torch.cat(
            [
                nn.functional.normalize(net(normalised(torch.from_numpy(images))))
                for images in faces.batches(indices, 128)
            ]
        )


def normalised(images: Tensor) -> Tensor:
    """uint8 [N, 112, 112, 3] RGB to [N, 3, 112, 112], (pixel - 127.5) / 127.5, channels last."""
    blob = (images.permute(0, 3, 1, 2).float() - 127.5) / 127.5
    return blob.contiguous(memory_format=torch.channels_last)


def load_facenet(source: str | Path, faces: FaceSet) -> FaceNet:
    """A network of ``train recognizer`` to go on with, in evaluation mode.

    Args:
        source: a run's folder, or the ONNX file that it wrote, the shipped one for instance.
        faces: some of those that are not held out give a file's network the statistics that its
            export left out.

    Raises:
        DataError: the folder holds no run of the default widths.
        ModelNotFoundError: there is no such file.
        ModelContractError: the file is no recognizer, or was not written by such a run.
    """
    source = Path(source)
    if source.suffix != ".onnx":
        with checkpoint_in(source) as state:
            weights = state["parts"]["net"]
            net = FaceNet(len(weights["embedding.4.1.weight"]))
            net.load_state_dict(weights)
        return net.eval()
    Recognizer.from_onnx(source)  # it says what is wrong with a file that is none
    return _recovered(source, faces)


def load_net(source: str | Path, faces: FaceSet) -> tuple[nn.Module, int]:
    """A recognizer to train further, with the length of its embeddings.

    Args:
        source: what ``load_facenet`` takes, or any other ONNX recognizer, whose normalisations are
            folded into its convolutions.
        faces: as ``load_facenet`` takes them.

    Raises:
        DataError: the folder holds no run of the default widths.
        ModelNotFoundError: there is no such file.
        ModelContractError: the file is no recognizer that can be trained.
    """
    source = Path(source)
    if source.suffix != ".onnx":
        run = load_facenet(source, faces)
        return run, run.dim
    recognizer = Recognizer.from_onnx(source)
    try:
        return _recovered(source, faces), recognizer.dim
    except ModelContractError:
        return recognizer.trainable(), recognizer.dim


def _recovered(path: Path, faces: FaceSet) -> FaceNet:
    rows = faces.training[:: -(-len(faces.training) // MEASURED)]
    return recover_facenet(path.read_bytes(), normalised(torch.from_numpy(faces.images[rows])))


def export_recognizer(net: nn.Module, path: str | Path) -> float:
    """Writes an ONNX file that insightface's ArcFaceONNX loads; returns the largest difference.

    Raises:
        ModelContractError: torch and ONNX Runtime differ by more than 1e-3.
    """
    net = net.to(memory_format=torch.contiguous_format)
    blob = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    data = to_onnx(net, (blob,), ["input"], ["embedding"]).SerializeToString(deterministic=True)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        ours = net(blob).numpy()
    difference = float(np.abs(ours - session.run(None, {"input": blob.numpy()})[0]).max())
    write_checked(data, path, difference, PARITY)
    return difference


def teach(teacher: Recognizer, faces: FaceSet, cache: str | Path) -> Floats:
    """The teacher's unit embeddings [N, d]: the mean of each face's as it is and mirrored.

    They are kept in ``cache`` for later runs on the same faces.
    """
    digest = hashlib.sha256(f"{teacher.sha256}\n{faces.digest}".encode()).hexdigest()
    path = Path(cache) / f"teacher-{digest[:16]}.npy"
    if not path.exists():
        everything = np.arange(len(faces))
        parts = []
        total = -(-len(faces) // 256)
        for images in tqdm(
            faces.batches(everything, 256), desc="teacher", unit="batch", total=total
        ):
            both = teacher.embed_numpy(as_batch(images)) + teacher.embed_numpy(
                as_batch(images[:, :, ::-1])
            )
            parts.append(both / np.linalg.norm(both, axis=1, keepdims=True))
        with atomic_path(path) as temporary:
            np.save(temporary, np.concatenate(parts))
    targets: Floats = np.load(path, allow_pickle=False)
    return targets


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 [N, 112, 112, 3] to normalised [N, 3, 112, 112], channels last."""
    blob = normalised(images)
    count = len(blob)
    flipped = torch.rand(count, generator=generator) < 0.5
    blob = torch.where(flipped.view(-1, 1, 1, 1), blob.flip(3), blob)
    padded = nn.functional.pad(blob, (3, 3, 3, 3), mode="replicate")
    top, left = (int(torch.randint(7, (), generator=generator)) for _ in range(2))
    blob = padded[:, :, top : top + 112, left : left + 112]
    gain = 0.8 + 0.4 * torch.rand((count, 1, 1, 1), generator=generator)
    lift = 0.2 * torch.rand((count, 1, 1, 1), generator=generator) - 0.1
    blob = (blob * gain + lift).clamp(-1, 1)
    return blob.contiguous(memory_format=torch.channels_last)
