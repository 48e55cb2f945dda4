"""What a reader needs of the results, in the shape that tables and plots show it.

A robustness figure never stands alone: every line carries what the defence costs on clean pairs and
what is left of it against the adaptive attacker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from facepurify.bench.metrics import Rate
from facepurify.bench.results import (
    ADAPTIVE,
    OBLIVIOUS,
    QUERY,
    STORED,
    TRANSFER,
    AttackRow,
    CleanRow,
    LatencyRow,
    Outcome,
    Results,
)

__all__ = [
    "WORTH",
    "Headline",
    "Line",
    "Worst",
    "aligned_table",
    "both",
    "headlines",
    "interval",
    "lines",
    "percent",
    "rate",
    "warnings",
    "worth",
]

WORTH = (
    "genuine rejected",
    "pairs",
    "oblivious dodging",
    "impersonation",
    "stored dodging",
    "impersonation",
    "adaptive dodging",
    "impersonation",
)


@dataclass(frozen=True)
class Line:
    """One attack on one defence, beside its clean cost and the adaptive figure."""

    clean: CleanRow
    row: AttackRow
    adaptive: AttackRow

    @property
    def pairs(self) -> int:
        """Attacked pairs of each kind."""
        return max(outcome.fixed.total for outcome in _outcomes(self.row) if outcome)

    @property
    def attack(self) -> str:
        """The attack's name, and the recognizer it was made on when that is another one."""
        return (
            f"{self.row.attack} on {self.row.surrogate}" if self.row.surrogate else self.row.attack
        )


@dataclass(frozen=True)
class Worst:
    """The most successful attack of one kind of attacker, for each goal; None without any."""

    dodging: Rate | None
    impersonation: Rate | None


@dataclass(frozen=True)
class Headline:
    """One defence in front of one recognizer, at one budget; ``latency`` None if not measured."""

    clean: CleanRow
    norm: str
    eps: float
    oblivious: Worst
    stored: Worst
    black_box: Worst
    adaptive: Worst
    latency: LatencyRow | None

    @property
    def pairs(self) -> str:
        """Attacked pairs of each kind, oblivious / adaptive."""
        return " / ".join(
            str(max(rate.total for rate in (worst.dodging, worst.impersonation) if rate))
            for worst in (self.oblivious, self.adaptive)
        )


def lines(results: Results) -> Iterator[Line]:
    """Yield every attack row, ordered by recognizer, defence and attacker as measured."""
    clean = {(row.recognizer, row.defence): row for row in results.clean}
    adaptive = {_budget(row): row for row in results.attacked if row.attacker == ADAPTIVE}
    for row in results.attacked:
        yield Line(clean[row.recognizer, row.defence], row, adaptive[_budget(row)])


def headlines(results: Results) -> list[Headline]:
    """Return one line for each recognizer, defence and budget: the worst of each attacker."""
    latency = {(row.recognizer, row.defence): row for row in results.latency}
    grouped: dict[tuple[str, str, str, float], list[Line]] = {}
    for line in lines(results):
        grouped.setdefault(_budget(line.row), []).append(line)
    return [
        Headline(
            clean=group[0].clean,
            norm=norm,
            eps=eps,
            oblivious=_worst(group, {OBLIVIOUS}),
            stored=_worst(group, {STORED}),
            black_box=_worst(group, {TRANSFER, QUERY}),
            adaptive=_worst(group, {ADAPTIVE}),
            latency=latency.get((recognizer, defence)),
        )
        for (recognizer, defence, norm, eps), group in grouped.items()
    ]


def warnings(results: Results) -> list[str]:
    """Return one sentence for each self-check that failed."""
    return [
        f"{row.defence} in front of {row.recognizer}, {row.norm} eps {row.eps:g}: "
        f"{check.name} ({check.detail})"
        for row in results.attacked
        for check in row.checks
        if not check.passed
    ]


def aligned_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""Write a Markdown table whose columns stand under each other in plain text, too.

    >>> aligned_table(["attack", "eps"], [["fgsm", "8"], ["pgd40", "16"]]).splitlines()[::2]
    ['| attack | eps |', '| fgsm   | 8   |']
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    cells = [header, ["-" * width for width in widths], *rows]
    return "".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |\n"
        for row in cells
    )


def percent(share: float | None) -> str:
    """Write a share as per cent with one decimal; a dash for what there is not.

    >>> percent(0.1234)
    '12.3'
    """
    return "-" if share is None else f"{100 * share:.1f}"


def interval(rate: Rate | None) -> str:
    """Write a rate as per cent with its interval.

    >>> interval(Rate.count([True, False]))
    '50.0 [9.5, 90.5]'
    """
    return (
        "-"
        if rate is None
        else f"{percent(rate.value)} [{percent(rate.low)}, {percent(rate.high)}]"
    )


def rate(row: AttackRow, goal: str) -> Rate | None:
    """Return the success of an attack at the fixed threshold; None for a goal it does not have."""
    outcome: Outcome | None = getattr(row, goal)
    return None if outcome is None else outcome.fixed


def both(values: Worst | AttackRow, what: str = "fixed") -> str:
    """Write a figure of dodging and of impersonation side by side.

    Args:
        values: The worst attacks (``what`` is ignored), or one attack row.
        what: Of a row: "fixed" or "recalibrated" success in per cent, "shift" or "distance".

    >>> both(Worst(Rate.count([True]), None))
    '100.0 / -'
    """
    return " / ".join(_write(value, what) for value in (values.dodging, values.impersonation))


def _write(value: Rate | Outcome | None, what: str) -> str:
    figure: Rate | float | None = getattr(value, what) if isinstance(value, Outcome) else value
    if isinstance(figure, float):
        return f"{figure:.3f}"
    return percent(None if figure is None else figure.value)


def _outcomes(row: AttackRow) -> tuple[Outcome | None, Outcome | None]:
    return row.dodging, row.impersonation


def _budget(row: AttackRow) -> tuple[str, str, str, float]:
    return row.recognizer, row.defence, row.norm, row.eps


def _worst(group: Iterable[Line], attackers: set[str]) -> Worst:
    rows = [line.row for line in group if line.row.attacker in attackers]
    return (
        Worst(
            *(
                max(
                    (outcome.fixed for outcome in outcomes if outcome),
                    key=lambda rate: rate.value,
                    default=None,
                )
                for outcomes in zip(*map(_outcomes, rows), strict=True)
            )
        )
        if rows
        else Worst(None, None)
    )


def worth(line: Headline) -> tuple[str, ...]:
    """Write what a line costs and is worth, in the columns of ``WORTH``."""
    return (
        percent(line.clean.frr),
        line.pairs,
        interval(line.oblivious.dodging),
        interval(line.oblivious.impersonation),
        interval(line.stored.dodging),
        interval(line.stored.impersonation),
        interval(line.adaptive.dodging),
        interval(line.adaptive.impersonation),
    )
