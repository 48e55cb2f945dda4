"""From a trained torch purifier to the ONNX file of our contract, checked against it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from facepurify.errors import ModelContractError
from facepurify.files import atomic_path
from facepurify.purifier import Purifier
from facepurify.train.ais import AisNet
from facepurify.train.basis import Basis
from facepurify.train.critic import AffinityCritic
from facepurify.train.delivery import with_history
from facepurify.train.faces import FaceSet, as_batch
from facepurify.train.immune import ImmuneNet
from facepurify.train.immune_space import ImmuneSpace
from facepurify.train.pin import PinNet
from facepurify.train.quantise import halve, halve_all, name_threshold
from facepurify.train.uddn import UddnNet

__all__ = [
    "MASKS",
    "Masked",
    "Scored",
    "Searchable",
    "calibrate",
    "export_bare",
    "export_projection",
    "export_purifier",
    "to_onnx",
    "write_checked",
]

OPSET = 18
PARITY = 1 / 255  # a grey level
UNIT_OUTPUTS = 3  # purified, probability and score come first; what follows has other units
HALVE_FROM = 1 << 14  # the cosines of the transform, which are fewer, would cost accuracy
# The order is the number that `mask_mode` takes; the first is what ships as the default.
MASKS = ("expected", "fixed", "sampled")


class Masked(nn.Module):
    """A selector and its immune space as they are exported: the mask can be chosen at run time.

    Args:
        net: what chooses and projects.
    """

    def __init__(self, net: PinNet | ImmuneNet) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, image: Tensor, mask_mode: Tensor, mask_uniform: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gives purified [N, 3, 112, 112], probability [N, K] and score [N], in [0, 1].

        Mode 0 keeps p of each coefficient, the mean of the sampled mask; 1 is the published fixed
        mask p > mean(p), 2 the published sampled one, p > u.
        """
        purified, _, probability, suspicion = self.net.restore(
            image, lambda p: self.mask(p, mask_mode, mask_uniform)
        )
        return purified, probability, suspicion.sigmoid()

    @staticmethod
    def mask(probability: Tensor, mask_mode: Tensor, mask_uniform: Tensor) -> Tensor:
        """The antibody [N, K] of p [N, K]."""
        threshold = torch.where(mask_mode == 1, probability.mean(1, keepdim=True), mask_uniform)
        hard = (probability > threshold).float()
        return torch.where(mask_mode == 0, probability, hard)


class Searchable(Masked):
    """The same, with what a search at run time starts from."""

    net: AisNet

    def forward(  # type: ignore[override]
        self, image: Tensor, mask_mode: Tensor, mask_uniform: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Gives what ``Masked`` does, coefficients [N, K] and code [N, C]."""
        coefficients, probability, suspicion, code = self.net.sense(image)
        mask = self.mask(probability, mask_mode, mask_uniform)
        purified = self.net.keep(image, mask * coefficients)
        return purified, probability, suspicion.sigmoid(), coefficients, code


class Scored(nn.Module):
    """A denoiser as it is exported.

    Args:
        net: the denoiser.
    """

    def __init__(self, net: UddnNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Gives purified [N, 3, 112, 112] and score [N], in [0, 1]."""
        purified, suspicion = self.net(image)
        return purified, suspicion.sigmoid()


def export_purifier(
    net: PinNet | UddnNet,
    path: str | Path,
    critic: AffinityCritic | None = None,
    *,
    half: bool = False,
) -> float:
    """Writes ``net`` as it ships (``Masked``, ``Searchable`` or ``Scored``) and compares both.

    Args:
        net: the purifier.
        path: of the ONNX file.
        critic: of an AIS, to search with.
        half: keep the weights in half precision, which counts as a difference.

    Returns:
        The largest difference between torch and ONNX Runtime over purified, probability and
        score; with the hard masks, over purified with the same mask.

    Raises:
        ModelContractError: they differ by more than a grey level, 1/255.
    """
    # The exporter would note the strides of channels last, and its graph would transpose.
    net = net.to(memory_format=torch.contiguous_format)
    image = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    if isinstance(net, AisNet):
        constants = _search_constants(net, critic)
        return _export_masked(Searchable(net).eval(), image, path, constants, half=half)
    if isinstance(net, PinNet | ImmuneNet):
        return _export_masked(Masked(net).eval(), image, path, {}, half=half)
    scored = Scored(net).eval()
    model = to_onnx(scored, (image,), ["image"], ["purified", "score"])
    halve(model, _is_large_matrix)
    if half:
        halve_all(model)
    session = _session(data := _checked(model))
    difference = _difference(scored, {"image": image}, session)
    write_checked(data, path, difference, PARITY)
    return difference


def _export_masked(
    masked: Masked, image: Tensor, path: str | Path, constants: dict[str, Tensor], *, half: bool
) -> float:
    mode = torch.zeros(1, dtype=torch.int64)
    uniform = torch.full((1, masked.net.space.count), 0.5)
    inputs = {"image": image, "mask_mode": mode, "mask_uniform": uniform}
    outputs = ["purified", "probability", "score"]
    if isinstance(masked, Searchable):
        outputs += ["coefficients", "code"]
    model = to_onnx(masked, tuple(inputs.values()), list(inputs), outputs)
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value.numpy(), name))
    halve(model, _is_large_matrix)
    if half:
        halve_all(model)
    # As `Purifier` runs it without a mask: what can be searched keeps p above 1/2, the uniform's.
    default = MASKS.index("sampled" if isinstance(masked, Searchable) else "expected")
    _set_default(model, "mask_mode", np.array([default]))
    _set_default(model, "mask_uniform", uniform.numpy())
    session = _session(data := _checked(model))
    worst = _difference(masked, inputs, session)
    for number in range(1, len(MASKS)):
        mode.fill_(number)
        worst = max(worst, _masked_difference(masked, inputs, session))
    write_checked(data, path, worst, PARITY)
    return worst


def _search_constants(net: AisNet, critic: AffinityCritic | None) -> dict[str, Tensor]:
    """What the search needs and the graph does not: ``facepurify.search`` reads it from the file.

    The eigenfaces themselves are there once, as the graph has them.
    """
    space = net.space
    constants = {
        "search.evidence": net.evidence,
        "search.luma.frequencies": space.luma.gather,
        "search.chroma.frequencies": space.chroma.gather,
    }
    if critic is not None:
        weights = critic.state_dict()
        # Rows of two dimensions travel in half precision.
        weights["genes"] = weights["genes"].flatten(1)
        constants |= {f"search.critic.{name}": value for name, value in weights.items()}
    return {name: value.detach().cpu().contiguous() for name, value in constants.items()}


def _checked(model: onnx.ModelProto) -> bytes:
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _session(data: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # below, it warns that the mask's inputs have defaults
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _difference(
    net: nn.Module, inputs: dict[str, Tensor], session: onnxruntime.InferenceSession
) -> float:
    """The largest one between torch's outputs and ONNX Runtime's, of those in [0, 1]."""
    with torch.no_grad():
        ours = net(*inputs.values())
    theirs = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return max(
        float(np.abs(one.numpy() - other).max())
        for one, other in zip(ours[:UNIT_OUTPUTS], theirs, strict=False)
    )


def _masked_difference(
    masked: Masked, inputs: dict[str, Tensor], session: onnxruntime.InferenceSession
) -> float:
    """That of the purified image alone, with the antibody of the p that ONNX Runtime found.

    Half precision may tip an eigenface over a hard threshold, which is no fault of the export.
    """
    feeds = {name: value.numpy() for name, value in inputs.items()}
    purified, probability = session.run(["purified", "probability"], feeds)
    with torch.no_grad():
        image, mode, uniform = inputs.values()
        mask = masked.mask(torch.from_numpy(probability), mode, uniform)
        ours = masked.net.restore(image, lambda _: mask)[0]
    return float(np.abs(ours.numpy() - purified).max())


def write_checked(data: bytes, path: str | Path, difference: float, limit: float) -> None:
    """Writes an exported graph that differs from torch by ``difference`` at most.

    Raises:
        ModelContractError: that is more than ``limit``, or not a number; nothing is written.
    """
    if not difference <= limit:
        raise ModelContractError(
            f"expected torch and ONNX Runtime to agree within {limit:.4f}, got {difference:.2g}"
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def export_bare(net: nn.Module, path: str | Path) -> float:
    """Writes a network that gives purified faces and nothing else, and compares both.

    Returns:
        The largest difference between torch and ONNX Runtime.

    Raises:
        ModelContractError: they differ by more than a grey level, 1/255.
    """
    net = net.to(memory_format=torch.contiguous_format).eval()
    image = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    session = _session(data := _checked(to_onnx(net, (image,), ["image"], ["purified"])))
    with torch.no_grad():
        ours = net(image).numpy()
    difference = float(np.abs(ours - session.run(None, {"image": image.numpy()})[0]).max())
    write_checked(data, path, difference, PARITY)
    return difference


class _Projection(nn.Module):
    def __init__(self, basis: Basis) -> None:
        super().__init__()
        self.space = ImmuneSpace(basis)

    def forward(self, image: Tensor) -> Tensor:
        return self.space.decode(self.space.encode(image))


def export_projection(basis: Basis, path: str | Path) -> None:
    """Writes the plain projection onto all eigenfaces of ``basis``, to compare selections with."""
    example = (torch.full((2, 3, 112, 112), 0.5),)
    model = to_onnx(_Projection(basis), example, ["image"], ["purified"])
    halve(model, _is_large_matrix)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def calibrate(path: str | Path, faces: FaceSet) -> float:
    """Writes into a purifier's file from which score an image is suspicious.

    That is the score that 1 % of the held-out clean faces of a set exceed (a rate of false alarms
    of 1 %), of the set where it is highest: whose faces the purifier will see is not known, and in
    all sets as one those of a few cameras may raise most of the alarms. A third of the faces are as
    their files have them, a third resized, a third resized and stored.

    Returns:
        The threshold.

    Raises:
        ModelContractError: the file gives no score.
        DataError: no face is held out.
    """
    faces.check_held_out()
    path = Path(path)  # as a string it might be a shipped model's name
    purifier = Purifier(path, threads=torch.get_num_threads())
    generator, scores = torch.Generator().manual_seed(0), []
    for images in faces.batches(faces.validation):
        clean = torch.from_numpy(as_batch(images))
        seen, _ = with_history(clean, clean, generator)
        scores.append(purifier.purify_canonical(seen.contiguous().numpy()).score)
    if any(score is None for score in scores):
        raise ModelContractError(f"expected an output score, {path} has none")
    score = np.concatenate([each for each in scores if each is not None])
    sets = np.array([faces.source(i) for i in faces.validation])
    threshold = max(float(np.quantile(score[sets == each], 0.99)) for each in np.unique(sets))
    model = onnx.load(path)
    name_threshold(model, threshold)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
    return threshold


def to_onnx(
    net: nn.Module, example: tuple[Tensor, ...], inputs: list[str], outputs: list[str]
) -> onnx.ModelProto:
    """Exports ``net`` as one graph whose first input has a free batch dimension.

    Raises:
        ModelContractError: torch exported nothing.
    """
    program = torch.onnx.export(
        net.eval(),
        example,
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes=({0: torch.export.Dim("N")}, *[None] * (len(example) - 1)),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise ModelContractError("expected an ONNX program, torch exported none")
    model = program.model_proto
    # The exporter notes where each operator comes from, with paths of the machine it ran on.
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""
    for part in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del part.metadata_props[:]
    for node in model.graph.node:
        if node.op_type == "Reshape":
            # Drops `allowzero`: no shape has a zero, and converters back to torch refuse it.
            del node.attribute[:]
    return model


def _is_large_matrix(tensor: onnx.TensorProto) -> bool:
    """Convolutions stay as they are: onnx2torch wants their weights as plain initializers."""
    return len(tensor.dims) == 2 and math.prod(tensor.dims) >= HALVE_FROM


def _set_default(model: onnx.ModelProto, name: str, value: npt.NDArray[Any]) -> None:
    """Makes an input optional: ONNX takes an initializer of the same name where none is fed."""
    model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
