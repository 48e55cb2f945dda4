"""Attacks: inside their budget exactly, on the 8-bit grid, stronger with more steps."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from facepurify.bench.attacks import (
    FGSM,
    GOALS,
    MIM,
    PGD,
    Attack,
    Blocks,
    Goal,
    LabelFree,
    Reversed,
    Square,
    get_attack,
    minimal_attack,
    succeeds,
)
from facepurify.bench.attacks.base import Problem, per_image
from facepurify.bench.attacks.blocks import in_blocks
from facepurify.bench.attacks.grains import SIDES
from facepurify.bench.recognizers import Recognizer
from facepurify.errors import AttackError
from tests.bench.small_nets import RandomNet, lfw_pairs, random_anchor, random_images

LINF = [
    "fgsm", "pgd10", "mim10", "dim10", "tim10", "apgd10", "feature_target10", "label_free10",
    "blocks10", "graded10", "grey10", "grey_blocks10", "stripes10", "grains10",
    "reversed10",
    "square100",
]  # fmt: skip
L2 = [
    "fgsm-l2", "pgd10-l2", "mim10-l2", "dim10-l2", "tim10-l2", "apgd10-l2", "blocks10-l2",
    "grey10-l2", "grey_blocks10-l2", "stripes10-l2", "grains10-l2",
]  # fmt: skip
ITERATIVE = [
    "pgd10", "mim10", "dim10", "tim10", "apgd10", "blocks10", "graded10", "grey10",
    "feature_target10",
]  # fmt: skip
NET = RandomNet()
COUNT = 3


def attacked(attack: Attack, goal: Goal, eps: float | Tensor, count: int = COUNT) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return attack(
        NET, random_images(COUNT)[:count], random_anchor(COUNT)[:count], goal, eps,
        generator=generator,
    )  # fmt: skip


def gain(images: Tensor, goal: Goal) -> Tensor:
    cosine = (NET(images) * random_anchor(COUNT)).sum(1)
    return -cosine if goal == "dodging" else cosine


def distance(images: Tensor, attack: Attack) -> Tensor:
    change = ((images * 255).round() - (random_images(COUNT) * 255).round()).flatten(1)
    return change.abs().amax(1) if attack.norm == "linf" else change.norm(dim=1)


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("name", LINF + L2)
def test_reaches_its_goal_inside_the_ball_on_the_grid(name: str, goal: Goal) -> None:
    attack = get_attack(name)
    if goal not in attack.goals:
        pytest.skip(f"{name} cannot do {goal}")
    eps = 8.0 if attack.norm == "linf" else 120.0
    images = attacked(attack, goal, eps)
    levels = images * 255
    assert torch.allclose(levels, levels.round(), atol=1e-9)
    assert levels.min() >= 0
    assert levels.max() <= 255
    assert (distance(images, attack) <= eps).all()
    if name == "reversed10":
        assert (gain(images, goal) < gain(random_images(COUNT), goal)).all()
    elif name != "label_free10":
        assert (gain(images, goal) > gain(random_images(COUNT), goal)).all()


@pytest.mark.parametrize("goal", GOALS)
def test_what_overshoots_turns_the_reversed_attack_around(goal: Goal) -> None:
    clean, images = random_images(COUNT), attacked(Reversed(steps=10), goal, 8.0)
    overshot = (images - 2 * (images - clean)).clamp(0, 1)  # as one that knows all of the noise
    assert (gain(overshot, goal) > gain(clean, goal)).all()


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 4),
    sides=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    corner=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
)
def test_blocks_have_the_mean_of_what_lies_in_them(
    shape: tuple[int, ...], sides: tuple[int, int], corner: tuple[float, float]
) -> None:
    top, left = (int(share * side) for share, side in zip(corner, sides, strict=True))
    values = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = in_blocks(values, sides, (top, left))
    assert found.shape == values.shape
    rows, columns = (
        (torch.arange(n) + by) // side
        for n, by, side in zip(shape[2:], (top, left), sides, strict=True)
    )
    for row in rows.unique():
        for column in columns.unique():
            block = (..., *torch.meshgrid(
                (rows == row).nonzero()[:, 0], (columns == column).nonzero()[:, 0], indexing="ij"
            ))  # fmt: skip
            mean = values[block].mean(dim=(-2, -1), keepdim=True)
            assert torch.allclose(found[block], mean.expand_as(found[block]), atol=1e-12)


@pytest.mark.parametrize(("least", "most"), [(0, 3), (4, 3)])
def test_blocks_of_no_size(least: int, most: int) -> None:
    with pytest.raises(AttackError, match=f"sides of squares from 1 up, got {least} to {most}"):
        Blocks(least=least, most=most)


@pytest.mark.parametrize("eps", [1.0, 2.0, 8.0, 24.0])
def test_graded_noise_is_slight_on_average_and_nowhere_above_eps(eps: float) -> None:
    attack = get_attack("graded10")
    images = attacked(attack, "dodging", eps)
    change = ((images * 255).round() - (random_images(COUNT) * 255).round()).flatten(1)
    assert (change.abs().amax(1) <= eps).all()
    level = change.square().mean(1).sqrt()
    allowed = min(max(1.0, eps / 6), eps)
    assert (level <= allowed * (1 + 1e-6)).all()
    assert (level > 0.7 * allowed).all()
    assert (change.abs().unique() > 0).sum() > 1 or eps == 1  # no signs


def test_graded_noise_has_no_ball_of_its_own() -> None:
    with pytest.raises(AttackError, match="expected norm linf for graded, got 'l2'"):
        get_attack("graded10-l2")


@pytest.mark.parametrize("name", ["blocks1", "grey_blocks1"])
def test_a_step_in_blocks_is_of_whole_squares(name: str) -> None:
    images = attacked(get_attack(name), "dodging", 8)
    clean = (random_images(COUNT) * 255).round()
    room = ((clean >= 2) & (clean <= 253)).all(1, keepdim=True)  # a step is of two levels
    change = (images * 255).round() - clean
    generator = torch.Generator().manual_seed(5)
    side = int(torch.randint(3, 13, (), generator=generator))
    top, left = (int(torch.randint(0, side, (), generator=generator)) for _ in range(2))
    whole = in_blocks(change, (side, side), (top, left))
    inside = in_blocks(room.float(), (side, side), (top, left)).expand_as(change) == 1
    assert inside.float().mean() > 0.5
    assert torch.equal(change[inside], whole[inside])
    assert change[inside].abs().max() == 2


@pytest.mark.parametrize("name", ["grey10", "grey_blocks10"])
def test_grey_noise_has_no_colour(name: str) -> None:
    images = attacked(get_attack(name), "dodging", 8)
    clean = (random_images(COUNT) * 255).round()
    change = (images * 255).round() - clean
    room = ((clean >= 8) & (clean <= 247)).all(1)  # elsewhere 0 or 255 cuts a colour off first
    red, green, blue = change.transpose(0, 1)
    assert torch.equal(red[room], green[room])
    assert torch.equal(red[room], blue[room])
    assert red[room].abs().max() == 8


@pytest.mark.parametrize("goal", GOALS)
def test_striped_noise_is_of_whole_rows_and_columns(goal: Goal) -> None:
    clean = ((0.25 + random_images(COUNT) / 2) * 255).round()  # with room for all of the noise
    generator = torch.Generator().manual_seed(5)
    attack = get_attack("stripes3")  # three steps of two levels: none is cut at eps
    images = attack(NET, clean / 255, random_anchor(COUNT), goal, 8, generator=generator)
    change = (images * 255).round() - clean
    assert change.diff(dim=2).diff(dim=3).abs().max() == 0
    assert change.diff(dim=2).abs().max() > 0
    assert change.diff(dim=3).abs().max() > 0
    assert change.diff(dim=1).abs().max() > 0  # of any colour


@pytest.mark.parametrize("seed", range(6))
def test_grains_are_rectangles_of_one_size(seed: int) -> None:
    clean = ((0.25 + random_images(COUNT) / 2) * 255).round()  # with room for all of the noise
    attack, generator = get_attack("grains1"), torch.Generator().manual_seed(seed)
    images = attack(NET, clean / 255, random_anchor(COUNT), "dodging", 8, generator=generator)
    change = (images * 255).round() - clean
    generator = torch.Generator().manual_seed(seed)
    height, width, grey = (
        int(torch.randint(0, high, (), generator=generator)) for high in (10, 10, 2)
    )
    sides = SIDES[height], SIDES[width]
    top, left = (int(torch.randint(0, side, (), generator=generator)) for side in sides)
    assert torch.equal(change, in_blocks(change, sides, (top, left)))
    assert (change.diff(dim=1) == 0).all() == bool(grey)
    assert change.abs().max() == 2


def test_label_free_leaves_the_own_embedding() -> None:
    clean = random_images(COUNT)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).sign() * 8 / 255
    noisy, images = (clean + noise).clamp(0, 1), attacked(LabelFree(), "dodging", 8.0)
    assert ((NET(images) * NET(clean)).sum(1) < (NET(noisy) * NET(clean)).sum(1) - 0.01).all()


@pytest.mark.parametrize("name", LINF + L2)
def test_each_image_has_its_own_budget(name: str) -> None:
    attack = get_attack(name)
    eps = torch.tensor([0.0, 2.0, 200.0]) if attack.norm == "l2" else torch.tensor([0.0, 0.5, 5.5])
    far = distance(attacked(attack, "dodging", eps), attack)
    assert (far <= eps).all()
    assert far[2] > far[0]


@pytest.mark.parametrize("name", LINF + L2)
def test_repeats_itself_and_ignores_the_rest_of_the_batch(name: str) -> None:
    attack = get_attack(name)
    eps = 8.0 if attack.norm == "linf" else 120.0
    images = attacked(attack, "dodging", eps)
    assert torch.equal(images, attacked(attack, "dodging", eps))
    assert torch.equal(images[:1], attacked(attack, "dodging", eps, count=1))


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("family", [PGD, MIM])
def test_more_steps_are_never_worse(family: type[PGD | MIM], norm: str, goal: Goal) -> None:
    eps = 4.0 if norm == "linf" else 60.0
    gains = [
        gain(attacked(family(steps=steps, norm=norm), goal, eps), goal)
        for steps in (1, 2, 5, 10, 15, 40)
    ]
    for fewer, more in itertools.pairwise(gains):
        assert (more >= fewer).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    eps=st.floats(0, 600, width=32),
    spread=st.floats(0.01, 400),
    norm=st.sampled_from(["linf", "l2"]),
)
def test_rounding_never_leaves_the_ball(seed: int, eps: float, spread: float, norm: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(256, (2, 3, 6, 6), generator=generator).float()
    radius = per_image(torch.full((2,), eps))
    problem = Problem(NET, clean, random_anchor(2), "dodging", radius, norm, generator)
    wild = clean + spread * torch.randn(clean.shape, generator=generator)
    levels = problem.quantise(wild)
    delta = (levels - clean).double()
    assert torch.equal(levels, levels.round())
    assert levels.min() >= 0
    assert levels.max() <= 255
    if norm == "linf":
        assert delta.abs().max() <= eps
    else:
        # Whole numbers: their squares add up exactly.
        assert (delta.square().sum((1, 2, 3)) <= torch.tensor(eps).double() ** 2).all()
    assert torch.equal(problem.quantise(levels), levels)


def test_rounding_in_l2_wastes_little_of_the_budget() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.full((1, 3, 112, 112), 128.0)
    eps = per_image(torch.tensor([300.0]))
    problem = Problem(NET, clean, random_anchor(1), "dodging", eps, "l2", generator)
    assert (problem.quantise(problem.random_start()) - clean).norm() > 299


@pytest.mark.parametrize("name", [name for name in LINF + L2 if not name.startswith("square")])
def test_costs_the_gradients_that_it_says(name: str) -> None:
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += x.requires_grad
        return NET(x)

    attack = get_attack(name)
    generator = torch.Generator().manual_seed(0)
    attack(counted, random_images(1), random_anchor(1), "dodging", 8.0, generator=generator)
    assert calls == attack.cost


def test_square_asks_exactly_its_queries_and_no_gradient() -> None:
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        assert not torch.is_grad_enabled()
        calls += 1
        return NET(x)

    attack = Square(queries=37)
    generator = torch.Generator().manual_seed(0)
    attack(counted, random_images(1), random_anchor(1), "dodging", 8.0, generator=generator)
    assert calls == attack.cost == 37


@pytest.mark.parametrize("name", LINF + L2)
def test_names_make_the_attack_that_has_them(name: str) -> None:
    assert get_attack(name).name == name
    others = {get_attack(other).key() for other in LINF + L2 if other != name}
    assert get_attack(name).key() not in others


@pytest.mark.parametrize("name", ["", "pgdd", "fgsm5", "pgd-l1", "pgd0", "square-l2", "PGD40"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(AttackError, match="expected"):
        get_attack(name)


def test_bad_arguments_are_refused() -> None:
    x, anchor = random_images(2), random_anchor(2)
    generator = torch.Generator()

    def refused(message: str, **changes: object) -> None:
        given = {"embed": NET, "x": x, "anchor": anchor, "goal": "dodging", "eps": 8.0, **changes}
        with pytest.raises(AttackError, match=message):
            FGSM()(**given, generator=generator)

    refused("goal", goal="hiding")
    refused("one anchor", anchor=anchor[:1])
    refused("N, 3, H, W", x=x[0])
    refused("8-bit grid", x=x + 0.3 / 255)
    refused("8-bit grid", x=x + 2)
    refused("8-bit grid", x=x * torch.nan)
    refused("eps >= 0", eps=-1.0)
    refused("eps >= 0", eps=float("nan"))
    refused("eps >= 0", eps=float("inf"))
    refused("one eps or 2", eps=torch.ones(3))
    refused("without a gradient", embed=lambda images: NET(images.detach()))
    refused(
        "finite gradient", embed=lambda images: NET(images) * (images.sum() - images.sum()).sqrt()
    )
    with pytest.raises(AttackError, match="norm"):
        PGD(norm="l1")  # type: ignore[arg-type]
    with pytest.raises(AttackError, match="dodging for label_free10"):
        LabelFree()(NET, x, anchor, "impersonation", 8.0, generator=generator)


@pytest.mark.parametrize("goal", GOALS)
def test_minimal_distance_is_where_success_begins(goal: Goal) -> None:
    x, anchor = random_images(COUNT), random_anchor(COUNT)
    attack = PGD(steps=5, random_start=False)
    strong = gain(attacked(attack, goal, 12.0), goal)
    weak = gain(x, goal)
    threshold = float((strong.median() + weak.median()) / 2) * (-1 if goal == "dodging" else 1)

    def run(eps: float | Tensor) -> Tensor:
        return attack(NET, x, anchor, goal, eps, generator=torch.Generator())

    found = minimal_attack(
        attack, NET, x, anchor, goal,
        threshold=threshold, largest=16, generator=torch.Generator(),
    )  # fmt: skip

    def fooled(images: Tensor) -> Tensor:
        return succeeds((NET(images) * anchor).sum(1), goal, threshold)

    reached = found.distance.isfinite()
    assert ((found.distance > 0) & reached).any()
    assert torch.equal(found.distance == 0, fooled(x))
    assert torch.equal(found.distance[reached], distance(found.images, attack)[reached])
    assert fooled(found.images)[reached].all()
    assert not fooled(run(16.0))[~reached].any()
    below = (found.distance - 1).clamp(0, 16)
    assert not fooled(run(below))[reached & (found.distance > 0)].any()


def test_minimal_distance_is_infinite_where_nothing_helps() -> None:
    found = minimal_attack(
        FGSM(), NET, random_images(COUNT), random_anchor(COUNT), "impersonation",
        threshold=1.1, generator=torch.Generator(),
    )  # fmt: skip
    assert found.distance.isinf().all()
    assert torch.equal(found.images, random_images(COUNT))


def test_minimal_distance_needs_a_budget() -> None:
    with pytest.raises(AttackError, match="positive"):
        minimal_attack(
            FGSM(), NET, random_images(1), random_anchor(1), "dodging",
            threshold=0.3, largest=0, generator=torch.Generator(),
        )  # fmt: skip


@pytest.mark.parametrize("goal", GOALS)
def test_iterative_attacks_always_fool_an_undefended_recognizer(shared: Path, goal: Goal) -> None:
    recognizer = Recognizer.from_onnx(shared / "models" / "mobileface_v2.onnx", threads=1)
    x, gallery = lfw_pairs(shared, 8, genuine=goal == "dodging")
    anchor = torch.from_numpy(recognizer.embed_numpy(gallery.numpy()))
    for name in ITERATIVE:
        generator = torch.Generator().manual_seed(0)
        images = get_attack(name)(recognizer, x, anchor, goal, 8.0, generator=generator)
        cosine = (torch.from_numpy(recognizer.embed_numpy(images.numpy())) * anchor).sum(1)
        assert succeeds(cosine, goal, 0.239).all(), name
