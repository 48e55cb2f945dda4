"""The pictures of the report, as SVG text that needs nothing from outside.

Each is drawn for a column of 400 pixels, so that its letters stay readable on a phone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from facepurify.bench.metrics import Rate
from facepurify.bench.results import OBLIVIOUS, ROC_RATES, AttackRow, Results
from facepurify.bench.summary import Headline, Worst, headlines

__all__ = ["Plot", "draw_hits", "draw_plots", "draw_trade", "name_above"]

# Okabe and Ito's colours, which colour-blind readers can tell apart, without the yellow.
_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = "osD^vPX"
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "facepurify",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


@dataclass(frozen=True)
class Plot:
    """One picture: ``svg`` is the file's text, ``caption`` says how to read it."""

    title: str
    caption: str
    svg: str


def draw_plots(results: Results) -> list[Plot]:
    """Draw the plots of every recognizer: clean against robust, success against eps, ROC, latency.

    Args:
        results: Of one run.
    """
    names = [defence.name for defence in results.defences]
    plots = []
    for recognizer in (info.name for info in results.recognizers):
        mine = [
            line
            for line in headlines(results)
            if line.clean.recognizer == recognizer and line.norm == "linf"
        ]
        eps = max((line.eps for line in mine), default=None)
        if eps is not None:
            strongest = [line for line in mine if line.eps == eps]
            plots.append(_clean_against_robust(recognizer, names, strongest, eps))
            plots += [
                _success_against_eps(recognizer, names, mine, goal)
                for goal in ("dodging", "impersonation")
            ]
        plots.append(_roc(recognizer, names, results, eps))
        if any(row.recognizer == recognizer for row in results.latency):
            plots.append(_latency(recognizer, results))
    return plots


def draw_trade(recognizer: str, lines: Sequence[Headline]) -> Plot:
    """Draw clean cost against success: a row for each goal, a column for each attacker.

    Args:
        recognizer: Its name.
        lines: What is drawn; those of one purifier at several budgets are joined.
    """
    names = list(dict.fromkeys(line.clean.defence for line in lines))
    budgets = sorted({line.eps for line in lines})
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.6, 6.6), layout="constrained")
        grid = figure.subplots(2, 2, sharex=True, sharey=True)
        for row, goal in zip(grid, ("dodging", "impersonation"), strict=True):
            for axes, attacker in zip(row, ("oblivious", "adaptive"), strict=True):
                for name in names:
                    _trade(axes, lines, name, attacker, goal, _look(names, name))
                axes.set_title(f"{goal}, {attacker}", fontsize=9)
                axes.set_ylim(-4, 104)
                axes.set_xlim(left=0)
            row[0].set_ylabel("attack success (%)")
        for axes in grid[-1]:
            axes.set_xlabel("genuine pairs rejected, clean (%)")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        caption = (
            f"L-inf {', '.join(f'{eps:g}' for eps in budgets)} of 255, a larger mark for a larger "
            "budget. Worst attack of each kind, Wilson 95 % intervals. Lower left is better."
        )
        return Plot(f"Cost against worth, {recognizer}", caption, _svg(figure))


def draw_hits(accuracy: Mapping[str, float], rates: Mapping[str, Mapping[str, Rate]]) -> Plot:
    """Draw what recognizers give up for their hardness: accuracy against hit rates.

    Args:
        accuracy: Of each recognizer, as a fraction.
        rates: For each attack, by its label, the hits on each of these recognizers.
    """
    names = sorted(accuracy, key=lambda name: accuracy[name])
    labels = list(rates)

    def draw(axes: Axes) -> None:
        for label, hits in rates.items():
            axes.errorbar(
                [100 * accuracy[name] for name in names],
                *_percent_and_errors([hits[name] for name in names]),
                **_look(labels, label),
                linestyle="",
                elinewidth=0.7,
                label=label,
            )
        name_above(axes, {name: 100 * accuracy[name] for name in names})
        axes.set(xlabel="accuracy, ten-fold (%)", ylabel="hit rate (%)")
        axes.set_ylim(-4, 104)

    return _plot(
        "Accuracy against hits",
        "At each recognizer's own threshold of FAR 0.1 %, Wilson 95 % intervals. Lower right is "
        "better.",
        draw,
    )


def name_above(axes: Axes, places: Mapping[str, float]) -> None:
    """Say above axes what lies where; those that lie together are named together.

    Args:
        axes: Whose upper edge gets the names.
        places: By name, in units of the horizontal axis; one at least.
    """
    near = 0.025 * (max(places.values()) - min(places.values()))
    groups: list[list[str]] = []
    for name in sorted(places, key=places.__getitem__):
        if groups and places[name] - places[groups[-1][0]] <= near:
            groups[-1].append(name)
        else:
            groups.append([name])
    middles = [fmean(places[name] for name in group) for group in groups]
    top = axes.secondary_xaxis("top")
    top.set_xticks(middles, [",\n".join(group) for group in groups], rotation=90, fontsize=7)


def _trade(
    axes: Axes,
    lines: Sequence[Headline],
    name: str,
    attacker: str,
    goal: str,
    look: dict[str, Any],
) -> None:
    mine = sorted((line for line in lines if line.clean.defence == name), key=lambda one: one.eps)
    found = [(line, getattr(getattr(line, attacker), goal)) for line in mine]
    drawn = [(line, rate) for line, rate in found if rate is not None]
    cost = [100 * line.clean.frr for line, _ in drawn]
    success = [100 * rate.value for _, rate in drawn]
    axes.plot(cost, success, color=look["color"], linewidth=1, alpha=0.5)
    for line, rate in drawn:
        axes.errorbar(
            [100 * line.clean.frr],
            *_percent_and_errors([rate]),
            **look,
            linestyle="",
            elinewidth=0.7,
            markersize=3 + line.eps / 2,
            alpha=0.8,
            label=name if line is mine[-1] else None,
        )


def _clean_against_robust(
    recognizer: str, names: list[str], group: list[Headline], eps: float
) -> Plot:
    def draw(axes: Axes) -> None:
        for line in group:
            look = _look(names, line.clean.defence)
            x = 100 * line.clean.frr
            low, high = _mean_success(line.oblivious), _mean_success(line.adaptive)
            axes.plot([x, x], [low, high], color=look["color"], linewidth=1, alpha=0.5)
            axes.plot(x, low, **look, linestyle="", label=line.clean.defence)
            axes.plot(x, high, **look, linestyle="", markerfacecolor="white")
        axes.set(xlabel="genuine pairs rejected, clean (%)", ylabel="attack success (%)")
        axes.set_ylim(-4, 104)
        axes.set_xlim(left=0)

    return _plot(
        f"Clean against robust, {recognizer}",
        f"L-inf {eps:g}/255, mean of dodging and impersonation, worst attack of each kind. Filled: "
        "the attacker does not know the purifier. Hollow: adaptive. Lower left is better.",
        draw,
    )


def _success_against_eps(
    recognizer: str, names: list[str], group: list[Headline], goal: str
) -> Plot:
    def draw(axes: Axes) -> None:
        for name in names:
            mine = sorted(
                (line for line in group if line.clean.defence == name), key=lambda line: line.eps
            )
            eps = [line.eps for line in mine]
            for attacker, dashes in (("oblivious", "-"), ("adaptive", ":")):
                rates = [getattr(getattr(line, attacker), goal) for line in mine]
                if None in rates:
                    continue
                axes.errorbar(
                    eps,
                    *_percent_and_errors(rates),
                    **_look(names, name),
                    linestyle=dashes,
                    linewidth=1.2,
                    elinewidth=0.7,
                    markerfacecolor=None if attacker == "oblivious" else "white",
                    label=name if attacker == "oblivious" else None,
                )
        axes.set_xlim(left=0)
        axes.set(xlabel="eps (grey levels of 255)", ylabel=f"{goal} success (%)")
        axes.set_ylim(-4, 104)

    return _plot(
        f"{goal.capitalize()} against eps, {recognizer}",
        "Worst attack of each kind, Wilson 95 % intervals. Solid: oblivious. Dotted: adaptive.",
        draw,
    )


def _roc(recognizer: str, names: list[str], results: Results, eps: float | None) -> Plot:
    attacked = _strongest_roc(
        row for row in results.attacked if row.recognizer == recognizer and row.eps == eps
    )

    def draw(axes: Axes) -> None:
        for row in results.clean:
            if row.recognizer != recognizer:
                continue
            colour = _look(names, row.defence)["color"]
            axes.plot(ROC_RATES, row.roc, color=colour, linewidth=1.4, label=row.defence)
            if row.defence in attacked:
                axes.plot(
                    ROC_RATES, attacked[row.defence], color=colour, linewidth=1, dashes=(3, 2)
                )
        axes.set_xscale("log")
        axes.set(xlabel="false acceptance rate", ylabel="true acceptance rate")
        axes.set_ylim(-0.04, 1.04)

    under = "" if eps is None else f" Dashed: under the worst oblivious attack, L-inf {eps:g}/255."
    return _plot(f"ROC, {recognizer}", f"Solid: clean pairs.{under}", draw)


def _latency(recognizer: str, results: Results) -> Plot:
    rows = [row for row in results.latency if row.recognizer == recognizer][::-1]

    def draw(axes: Axes) -> None:
        places = range(len(rows))
        for offset, colour, label, values in (
            (0.2, _COLOURS[1], "batch 1", [row.batch_1 for row in rows]),
            (-0.2, _COLOURS[5], "batch 32", [row.batch_32 for row in rows]),
        ):
            axes.barh([p + offset for p in places], values, 0.38, color=colour, label=label)
        axes.set_yticks(list(places), [row.defence for row in rows])
        axes.set_xlabel(f"time for each image, in multiples of {recognizer}'s")
        axes.grid(axis="y", visible=False)

    return _plot(f"Latency, {recognizer}", "Medians of one run. Shorter is better.", draw)


def _percent_and_errors(rates: Sequence[Rate]) -> tuple[list[float], list[list[float]]]:
    """Return values, and how far their intervals reach below and above, as error bars have it."""
    return [100 * rate.value for rate in rates], [
        [100 * (rate.value - rate.low) for rate in rates],
        [100 * (rate.high - rate.value) for rate in rates],
    ]


def _mean_success(worst: Worst) -> float:
    """Return the mean over the goals that were attacked, in per cent."""
    return 100 * fmean(rate.value for rate in (worst.dodging, worst.impersonation) if rate)


def _strongest_roc(rows: Iterable[AttackRow]) -> dict[str, tuple[float, ...]]:
    """Return for each defence the ROC of the oblivious attack that leaves the smallest area."""
    curves: dict[str, tuple[float, ...]] = {}
    for row in rows:
        if row.attacker == OBLIVIOUS and row.norm == "linf":
            curves[row.defence] = min(curves.get(row.defence, row.roc), row.roc, key=sum)
    return curves


def _look(names: list[str], name: str) -> dict[str, Any]:
    index = names.index(name)
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "marker": _MARKERS[(index // len(_COLOURS) + index) % len(_MARKERS)],
    }


def _plot(title: str, caption: str, draw: Callable[[Axes], None]) -> Plot:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.2, 3.7), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        return Plot(title, caption, _svg(figure))


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
