"""What benchmarks/fairness.py says of its runs: each figure, how it is worked out, and what it should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tenantctl.bench.measurement import Measurement
from tenantctl.bench.suites import SUITES

USAGE, FIFO, LLAMA_SERVER = "tenantd", "fifo", "llama-server"
NOISE = 0.03
"""A share over ten seconds cannot be seen more exactly: a client sees all input tokens of a request served at once."""
BASELINES = {
    "flood": ("solo", "flood-alone"),
    "long-prompts": ("solo", "long-alone"),
    "newcomer": ("solo",),
}
"""Suites whose figures are relative to those of others."""

Round = dict[str, dict[str, Measurement]]
"""By target, then by suite."""


@dataclass(frozen=True)
class Value:
    """`at_least`: it could not be seen how much more it is."""

    number: float
    at_least: bool = False


@dataclass(frozen=True)
class Figure:
    """`of` works it out for a target in one round; None where there is nothing to say. KeyError: a run is missing."""

    suite: str
    what: str
    of: Callable[[Round, str], Value | None]
    unit: str = ""
    most: float | None = None
    least: float | None = None

    @property
    def target(self) -> str:
        if self.most is not None:
            return f"≤ {show(Value(self.most), self.unit)}" if self.most else "0"
        return f"≥ {show(Value(self.least), self.unit)}" if self.least is not None else ""

    def is_met(self, value: Value) -> bool | None:
        """None: there is no target, or it cannot be told."""
        if self.most is not None:
            return value.number <= self.most if not value.at_least or value.number > self.most else None
        return value.number >= self.least if self.least is not None else None


@dataclass(frozen=True)
class Line:
    """A figure over all rounds: the values of each, by target, and their medians."""

    suite: str
    what: str
    unit: str
    target: str
    met: bool | None
    rounds: dict[str, list[Value]] = field(default_factory=dict)
    medians: dict[str, Value] = field(default_factory=dict)


def lines(rounds: list[Round], targets: list[str]) -> list[Line]:
    """All figures for which there are runs."""
    result = []
    for figure in FIGURES:
        values = {name: _values(figure, rounds, name) for name in targets}
        medians = {name: _median(each) for name, each in values.items() if each}
        if medians:
            met = figure.is_met(medians[USAGE]) if USAGE in medians else None
            result.append(Line(figure.suite, figure.what, figure.unit, figure.target, met, values, medians))
    return result


def _values(figure: Figure, rounds: list[Round], target: str) -> list[Value]:
    values = []
    for runs in rounds:
        try:
            value = figure.of(runs, target)
        except KeyError:  # not measured, or not yet
            continue
        if value is not None:
            values.append(value)
    return values


def _median(values: list[Value]) -> Value:
    """One of them, so that it keeps its mark; of two in the middle the larger."""
    return sorted(values, key=lambda v: (v.number, v.at_least))[len(values) // 2]


def markdown(table: list[Line], targets: list[str]) -> str:
    """The table, for a terminal and for docs."""
    rows = [["suite", "figure", "target", *targets, "met"]]
    rows.append(["---", "---", "---:", *["---:"] * len(targets), "---"])
    for line in table:
        values = [show(line.medians[name], line.unit) if name in line.medians else "" for name in targets]
        met = "" if line.met is None else "met" if line.met else "**missed**"
        rows.append([line.suite, line.what, line.target, *values, met])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def show(value: Value, unit: str) -> str:
    number = value.number
    text = {
        "s": f"{number:.3f} s",
        "×": f"{number:.2f} ×",
        "%": f"{number:.1%}",
        "": f"{number:,.0f}",
    }[unit]
    return ("≥ " if value.at_least else "") + text


# ---- how each is worked out


def _ttft(suite: str, share: str) -> Callable[[Round, str], Value | None]:
    def of(runs: Round, target: str) -> Value | None:
        figures = runs[target][suite].figures["quiet"]
        quantile = figures.ttft_p50 if share == "p50" else figures.ttft_p99
        return None if quantile is None else Value(quantile.seconds, quantile.at_least)

    return of


def _next_to_solo(suite: str, share: str) -> Callable[[Round, str], Value | None]:
    def of(runs: Round, target: str) -> Value | None:
        here, alone = _ttft(suite, share)(runs, target), _ttft("solo", share)(runs, target)
        if here is None or alone is None:
            return None
        return Value(here.number / alone.number, here.at_least)

    return of


def _since_newcomer(share: float) -> Callable[[Round, str], Value | None]:
    def of(runs: Round, target: str) -> Value | None:
        quantile = runs[target]["newcomer"].ttft_next_to_newcomer("first", share)
        return None if quantile is None else Value(quantile.seconds, quantile.at_least)

    return of


def _since_newcomer_to_solo(share: float, solo: str) -> Callable[[Round, str], Value | None]:
    def of(runs: Round, target: str) -> Value | None:
        here, alone = _since_newcomer(share)(runs, target), _ttft("solo", solo)(runs, target)
        return None if here is None or alone is None else Value(here.number / alone.number, here.at_least)

    return of


def _refused(suite: str) -> Callable[[Round, str], Value]:
    """Failed ones too: no answer is no answer."""
    return lambda runs, target: Value(sum(f.refused + f.failed for f in runs[target][suite].figures.values()))


def _kept(suite: str, alone: str) -> Callable[[Round, str], Value]:
    """What noisy gets, next to what it gets alone less what quiet gets."""

    def of(runs: Round, target: str) -> Value:
        run = runs[target][suite]
        quiet, noisy = (run.curves[name].between(run.span) / run.length_s for name in ("quiet", "noisy"))
        return Value(noisy / (runs[target][alone].service_per_s - quiet))

    return of


def _apart(suite: str) -> Callable[[Round, str], Value]:
    """How much more service per weight the best served tenant got than the worst."""

    def of(runs: Round, target: str) -> Value:
        services = [f.service / f.weight for f in runs[target][suite].figures.values()]
        return Value(max(services) / min(services) - 1 if min(services) else float("inf"))

    return of


def _off_weight(suite: str) -> Callable[[Round, str], Value]:
    """The furthest that a share is from its weight's, relative to that."""

    def of(runs: Round, target: str) -> Value:
        figures = runs[target][suite].figures.values()
        weights = sum(f.weight for f in figures)
        return Value(max(abs(f.share / (f.weight / weights) - 1) for f in figures))

    return of


def _least_share_while_on(runs: Round, target: str) -> Value:
    """Of the steady tenant in any one phase in which both are on."""
    run = runs[target]["on-off"]
    on, _ = run.phases("burst")
    return Value(min(run.curves["steady"].between(span) / run.service(span) for span in on))


def _kept_while_off(runs: Round, target: str) -> Value:
    """Output per second while one is off, next to that while both are on."""
    run = runs[target]["on-off"]
    both, one = [
        sum(run.output_tokens(span) for span in spans) / sum(end - begin for begin, end in spans)
        for spans in run.phases("burst")
    ]
    return Value(one / both)


def _speed(runs: Round, target: str) -> Value:
    return Value(runs[target]["peak"].output_tokens_per_s)


def _speed_next_to_llama_server(runs: Round, target: str) -> Value | None:
    return None if target == LLAMA_SERVER else Value(_speed(runs, target).number / _speed(runs, LLAMA_SERVER).number)


def _gap(suite: str) -> Callable[[Round, str], Value]:
    return lambda runs, target: Value(runs[target][suite].gap.service)


def _gap_next_to_fifo(suite: str) -> Callable[[Round, str], Value | None]:
    def of(runs: Round, target: str) -> Value | None:
        fifo = runs[FIFO][suite].gap.service
        return Value(runs[target][suite].gap.service / fifo) if target == USAGE and fifo else None

    return of


def _noisy_figures(suite: str, alone: str) -> list[Figure]:
    return [
        Figure(suite, "quiet's first token, p50", _ttft(suite, "p50"), "s"),
        Figure(suite, "quiet's first token, p50, to solo", _next_to_solo(suite, "p50"), "×", most=1.25),
        Figure(suite, "quiet's first token, p99, to solo", _next_to_solo(suite, "p99"), "×", most=1.75),
        Figure(suite, "refused or failed", _refused(suite), most=0),
        Figure(suite, "noisy's service, to alone less quiet's", _kept(suite, alone), "%", least=0.95),
    ]


FIGURES = [
    Figure("solo", "quiet's first token, p50", _ttft("solo", "p50"), "s"),
    Figure("solo", "quiet's first token, p99", _ttft("solo", "p99"), "s"),
    *_noisy_figures("flood", "flood-alone"),
    *_noisy_figures("long-prompts", "long-alone"),
    Figure("newcomer", "first's first token since then, p50", _since_newcomer(0.5), "s"),
    Figure("newcomer", "first's first token since then, p50, to solo", _since_newcomer_to_solo(0.5, "p50"), "×"),
    Figure("newcomer", "first's first token since then, p99", _since_newcomer(0.99), "s"),
    Figure(
        "newcomer", "first's first token since then, p99, to solo", _since_newcomer_to_solo(0.99, "p99"), "×", most=1.6
    ),
    Figure("newcomer", "refused or failed", _refused("newcomer"), most=0),
    Figure("overload", "service apart", _apart("overload"), "%", most=0.03),
    Figure("weighted", "a share's distance from 1 : 2 : 4", _off_weight("weighted"), "%", most=0.05),
    Figure("short-long", "service apart", _apart("short-long"), "%", most=0.05),
    Figure("on-off", "steady's least share while both are on", _least_share_while_on, "%", least=0.5 * (1 - NOISE)),
    Figure("on-off", "output tokens/s while one is off, to both on", _kept_while_off, "%", least=0.95),
    Figure("peak", "output tokens/s", _speed),
    Figure("peak", "output tokens/s, to llama-server", _speed_next_to_llama_server, "×", least=1.0),
    *(
        figure
        for suite in SUITES.values()
        if suite.calibrated
        for figure in (
            Figure(suite.name, "largest gap of service", _gap(suite.name)),
            Figure(
                suite.name,
                "largest gap, to fifo",
                _gap_next_to_fifo(suite.name),
                "×",
                # first come, first served is fair where requests arrive in proportion to the weights
                most=None if suite.name == "vtc-weighted" else 1.0,
            ),
        )
    ),
]
