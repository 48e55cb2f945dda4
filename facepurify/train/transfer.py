"""Knowledge transfer, UDDN's third stage: a teacher tuned on denoised faces teaches a student."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from facepurify.bench.recognizers import Recognizer
from facepurify.errors import DataError, OptionError
from facepurify.files import atomic_path
from facepurify.train.arcface import ArcFace
from facepurify.train.choose import Purify, Trial, held_out_trial, on_tensors
from facepurify.train.facenet import FaceNet
from facepurify.train.faces import FaceSet, as_batch
from facepurify.train.fresh import attack_now
from facepurify.train.loop import Loop, weights_of
from facepurify.train.optimiser import Optimiser
from facepurify.train.recognizer import export_recognizer
from facepurify.train.shares import check_shares
from facepurify.train.uddn import UddnNet

__all__ = ["TransferRecipe", "softened_loss", "teach_student", "transfer", "tune_teacher"]

PurifyTensor = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TransferRecipe:
    """How teacher and student are trained.

    Attributes:
        steps: of the optimiser, for each of them.
        batch: images a step.
        rate: peak learning rate.
        hostile: share of each batch that is attacked, on the recognizer that is defended.
        temperature: T of eq. 7, 1 or more.
        softened: lambda of eq. 6, the weight of the softened outputs' divergence.
        labels: weight of what needs a label; the rest is the embedding's cosine distance.
    """

    steps: int = 1000
    batch: int = 64
    rate: float = 3e-4
    hostile: float = 0.5
    temperature: float = 4.0
    softened: float = 1.0
    labels: float = 0.02

    def __post_init__(self) -> None:
        check_shares(hostile=self.hostile)
        if self.temperature < 1:
            raise OptionError(f"expected a temperature of 1 or more, got {self.temperature}")


def transfer(
    base: FaceNet,
    denoiser: UddnNet,
    faces: FaceSet,
    recipe: TransferRecipe,
    folder: str | Path,
    out: str | Path,
    *,
    stranger: Recognizer | None = None,
    pairs: int = 1000,
    attacked: int = 200,
    seed: int = 0,
    resume: bool = False,
) -> dict[str, dict[str, float]]:
    """Trains the students of the paper's table 3, judges its four rows, writes the last student.

    Rows are "none", "denoise only", "distillation only" and "all". Each recognizer is attacked as
    it is (white box, the denoiser unknown to the attacker) and by attacks on a stranger.

    Args:
        base: the recognizer to defend.
        denoiser: in front of it.
        faces: those held out are judged on.
        recipe: how.
        folder: of the runs, and for ``transfer.json``.
        out: the ONNX file of the student of "all", to be used behind the denoiser.
        stranger: a recognizer that attacks are transferred from (black box); None for no such.
        pairs: clean held-out pairs of each kind.
        attacked: attacked ones.
        seed: of everything random.
        resume: go on with the runs in ``folder``.

    Returns:
        For each row the genuine pairs rejected and the success of each attack, as fractions.
    """
    folder = Path(folder)
    sources = {
        "faces": faces.digest, "recognizer": weights_of(base), "denoiser": weights_of(denoiser)
    }  # fmt: skip
    students: dict[str, FaceNet] = {}
    for name, purify in (("distillation only", _as_it_is), ("all", denoiser.purify)):
        place = folder / name.replace(" ", "-")
        teacher, head = tune_teacher(
            base, purify, faces, recipe, place / "teacher",
            seed=seed, resume=resume, sources=sources,
        )  # fmt: skip
        students[name] = teach_student(
            base, teacher, head, purify, faces, recipe, place / "student",
            seed=seed, resume=resume, sources=sources,
        )  # fmt: skip
    files = {"none": folder / "base.onnx", "distillation only": folder / "distilled.onnx"}
    export_recognizer(copy.deepcopy(base), files["none"])
    export_recognizer(students["distillation only"], files["distillation only"])
    export_recognizer(students["all"], out)

    def trial_of(recognizer: Recognizer) -> Trial:
        return held_out_trial(faces, recognizer, pairs=pairs, attacked=attacked, seed=seed)

    foreign = trial_of(stranger) if stranger else None
    denoise = on_tensors(denoiser.purify)
    trials = {
        name: trial_of(Recognizer.from_onnx(path)) for name, path in (*files.items(), ("all", out))
    }
    table = {
        "none": (trials["none"], lambda images: images),
        "denoise only": (trials["none"], denoise),
        "distillation only": (trials["distillation only"], lambda images: images),
        "all": (trials["all"], denoise),
    }
    rows = {name: _judged(trial, foreign, purify) for name, (trial, purify) in table.items()}
    with atomic_path(folder / "transfer.json") as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    return rows


def tune_teacher(
    base: FaceNet,
    purify: PurifyTensor,
    faces: FaceSet,
    recipe: TransferRecipe,
    folder: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
    sources: Mapping[str, str] | None = None,
) -> tuple[FaceNet, ArcFace]:
    """Tunes a copy of ``base`` on purified faces, clean and attacked.

    Faces with an identity pull by ArcFace's loss (the paper's one-hot labels), all faces by the
    cosine to what ``base`` saw in the clean face.

    Returns:
        The teacher and its identities' directions.

    Raises:
        DataError: no training face has an identity.
    """
    labels = torch.from_numpy(faces.labels())
    if not bool((labels[torch.from_numpy(faces.training)] >= 0).any()):
        raise DataError("expected faces with identities (folders below a set's own), got none")
    net = _trainable(base)
    head = ArcFace(net.dim, int(labels.max()) + 1)
    optimiser = Optimiser([*net.parameters(), *head.parameters()], recipe.rate, recipe.steps)
    parts = {"net": net, "head": head, **optimiser.parts}
    loop = Loop(folder, parts, recipe, seed=seed, resume=resume, sources=sources)
    for _, generator in loop:
        clean, seen, label = _draw(base, purify, faces, labels, recipe, generator)
        with torch.no_grad():
            wanted = _embed(base, clean)
        embedding = _embed(net, seen)
        distance = 1 - (embedding * wanted).sum(dim=1).mean()
        identity = head(embedding, label)
        optimiser.step(distance + recipe.labels * identity)
        loop.log(distance=float(distance.detach()), identity=float(identity.detach()))
    return net.eval(), head.eval()


def teach_student(
    base: FaceNet,
    teacher: FaceNet,
    head: ArcFace,
    purify: PurifyTensor,
    faces: FaceSet,
    recipe: TransferRecipe,
    folder: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
    sources: Mapping[str, str] | None = None,
) -> FaceNet:
    """Teaches a copy of ``base`` the teacher's outputs on purified faces.

    Softened outputs over the identities where a face has one (eq. 6), the embedding's cosine for
    all. Both see the same picture, but the teacher's is not attacked: what it knows of a face is
    what the student must see through the noise.

    Returns:
        The student, in evaluation mode.
    """
    labels = torch.from_numpy(faces.labels())
    net, own = _trainable(base), copy.deepcopy(head).train().requires_grad_()
    optimiser = Optimiser([*net.parameters(), *own.parameters()], recipe.rate, recipe.steps)
    parts = {"net": net, "head": own, **optimiser.parts}
    loop = Loop(folder, parts, recipe, seed=seed + 1, resume=resume, sources=sources)
    for _, generator in loop:
        clean, seen, label = _draw(base, purify, faces, labels, recipe, generator)
        known = label >= 0
        with torch.no_grad():
            wanted = _embed(teacher, purify(clean))
            taught = _logits(head, wanted[known])
        embedding = _embed(net, seen)
        distance = 1 - (embedding * wanted).sum(dim=1).mean()
        outputs = softened_loss(
            taught, _logits(own, embedding[known]), recipe.temperature, recipe.softened
        )
        optimiser.step(distance + recipe.labels * outputs)
        loop.log(distance=float(distance.detach()), outputs=float(outputs.detach()))
    return net.eval()


def softened_loss(teacher: Tensor, student: Tensor, temperature: float, weight: float) -> Tensor:
    """KL(P_t || P_s) + lambda KL(P_t^T || P_s^T), eq. 6 and 7, over logits [N, C]; a mean.

    Zero without an image.

    >>> import torch
    >>> float(softened_loss(torch.ones(2, 3), torch.ones(2, 3), 4.0, 1.0))
    0.0
    """
    if not len(teacher):
        return student.sum() * 0

    def divergence(t: float) -> Tensor:
        return nn.functional.kl_div(
            (student / t).log_softmax(dim=1),
            (teacher / t).log_softmax(dim=1),
            reduction="batchmean",
            log_target=True,
        )

    return divergence(1.0) + weight * divergence(temperature)


def _as_it_is(images: Tensor) -> Tensor:
    return images


def _trainable(base: FaceNet) -> FaceNet:
    """A copy whose batch norm keeps its statistics: attacked batches have others."""
    return copy.deepcopy(base).requires_grad_().eval()


def _embed(net: FaceNet, x: Tensor) -> Tensor:
    """Unit embeddings of images [N, 3, 112, 112] in [0, 1]."""
    return nn.functional.normalize(net(x * 2 - 1))


def _logits(head: ArcFace, embedding: Tensor) -> Tensor:
    return head.scale * embedding @ nn.functional.normalize(head.weight).T


def _draw(
    base: FaceNet,
    purify: PurifyTensor,
    faces: FaceSet,
    labels: Tensor,
    recipe: TransferRecipe,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Training faces: clean, as a defended recognizer gets them (some attacked), and labels."""
    training = torch.from_numpy(faces.training)
    rows = training[torch.randint(len(training), (recipe.batch,), generator=generator)]
    clean = torch.from_numpy(as_batch(faces.images[rows.numpy()]))
    if float(torch.rand((), generator=generator)) < 0.5:
        clean = clean.flip(3)
    count = round(recipe.hostile * len(clean))
    seen = clean.clone()
    if count:
        with torch.no_grad():
            own = _embed(base, clean[:count])
        seen[:count] = attack_now(lambda x: _embed(base, x), clean[:count], own, generator)
    with torch.no_grad():
        return clean, purify(seen), labels[rows]


def _judged(trial: Trial, foreign: Trial | None, purify: Purify) -> dict[str, float]:
    """White box, then black box: the same pairs, probes attacked on the stranger."""
    row = trial.judge(purify)
    if foreign is None:
        return row
    probes = {
        key: (foreign.attacked[key][0], galleries) for key, (_, galleries) in trial.attacked.items()
    }
    black = replace(trial, attacked=probes).judge(purify)
    del black["genuine rejected"]
    return row | {f"black box {name}": value for name, value in black.items()}
