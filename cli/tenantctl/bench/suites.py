"""The suites: which tenants send what, and when. Plain data, cheap to import.

The suites whose names begin with `vtc-` are the synthetic workloads of "Fairness in Serving Large Language Models"
(Sheng et al., OSDI 2024, section 5.2; fair_bench/exp_suite.py and trace.py of its artifact). Their rates are the
paper's, for a server that finishes 1.75 requests per second of 256 input and 256 output tokens (`VTC_CAPACITY`), and
are scaled to the capacity of the server that is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from tenantctl.bench.arrivals import Rate, in_turn, on_off, phased, ramp, steady

INPUT_COST: Final = 1
OUTPUT_COST: Final = 2


@dataclass(frozen=True)
class Shape:
    """The size of a request."""

    prompt_tokens: int
    output_tokens: int

    @property
    def service(self) -> int:
        """Its service: 1 per input token, 2 per output token."""
        return INPUT_COST * self.prompt_tokens + OUTPUT_COST * self.output_tokens

    def scaled(self, factor: float) -> Shape:
        """A shorter or longer shape, with at least one token each way."""
        return Shape(max(1, round(self.prompt_tokens * factor)), max(1, round(self.output_tokens * factor)))


@dataclass(frozen=True)
class Closed:
    """A closed loop: `clients` clients, each of which sends its next request when it has its answer. `on` are the times
    at which they send, as fractions of the run."""

    clients: int
    on: tuple[tuple[float, float], ...] = ((0.0, 1.0),)


@dataclass(frozen=True)
class Open:
    """An open loop: requests arrive at a rate, whether or not earlier ones were answered."""

    rate: Rate
    poisson: bool = False


@dataclass(frozen=True)
class TenantLoad:
    """What one tenant sends: `load`, and optionally another closed loop (`also`) at other times."""

    name: str
    shape: Shape
    load: Closed | Open
    weight: float = 1.0
    also: Closed | None = None


@dataclass(frozen=True)
class Suite:
    """`calibrated`: its rates are for a server of `VTC_CAPACITY` and are scaled to the one that is measured.

    `duration_s` is as long as a slow machine needs: one request must not be a large part of what its tenant gets.
    `newcomer` names a closed loop that begins in the middle; the waits of the others from then on are figures.
    """

    name: str
    about: str
    tenants: tuple[TenantLoad, ...]
    duration_s: float = 30.0
    calibrated: bool = False
    newcomer: str = ""

    @property
    def context_tokens(self) -> int:
        """Tokens that a slot must hold."""
        return max(t.shape.prompt_tokens + t.shape.output_tokens for t in self.tenants)

    def with_lengths(self, factor: float) -> Suite:
        """The same suite with shorter or longer requests."""
        tenants = tuple(replace(t, shape=t.shape.scaled(factor)) for t in self.tenants)
        return replace(self, tenants=tenants)


VTC_SHAPE: Final = Shape(256, 256)
VTC_CAPACITY: Final = 1.75 * VTC_SHAPE.service
"""Service per second of the paper's server (Llama-2-7b on an A10G), from the artifact's results for overload."""

_QUIET: Final = TenantLoad("quiet", Shape(128, 32), Open(steady(0.5)))
_NOISY: Final = TenantLoad("noisy", Shape(128, 128), Closed(32))
_LONG: Final = TenantLoad("noisy", Shape(1024, 32), Closed(32))
_EVEN: Final = Shape(128, 128)
NEWCOMER_AT: Final = 0.5
"""By then the last requests of those who worked before are done: the machine is idle for an instant."""


def _open(name: str, rate: Rate, shape: Shape = VTC_SHAPE, *, poisson: bool = False, weight: float = 1) -> TenantLoad:
    return TenantLoad(name, shape, Open(rate, poisson), weight)


def _vtc(name: str, about: str, *tenants: TenantLoad) -> Suite:
    return Suite(f"vtc-{name}", about, tenants, duration_s=40.0, calibrated=True)


def _steady_tenants(*rates: float, weights: tuple[float, ...] = ()) -> list[TenantLoad]:
    return [
        _open(f"tenant-{i}", steady(rate), weight=weights[i - 1] if weights else 1) for i, rate in enumerate(rates, 1)
    ]


_ALL: Final = (
    Suite("solo", "quiet alone, one request every 2 s (the reference)", (_QUIET,), duration_s=40.0),
    Suite("flood", "quiet next to 32 clients that never pause", (_QUIET, _NOISY), duration_s=40.0),
    Suite("flood-alone", "the 32 clients of flood alone", (_NOISY,)),
    Suite("long-prompts", "quiet next to 32 clients with long prompts", (_QUIET, _LONG), duration_s=40.0),
    Suite("long-alone", "the 32 clients of long-prompts alone", (_LONG,)),
    Suite(
        "overload",
        "6 and 12 clients with equal weight",
        (TenantLoad("six", _EVEN, Closed(6)), TenantLoad("twelve", _EVEN, Closed(12))),
        duration_s=60.0,
    ),
    Suite(
        "weighted",
        "weights 1, 2 and 4, 8 clients each",
        tuple(TenantLoad(f"weight-{w}", _EVEN, Closed(8), weight=w) for w in (1, 2, 4)),
        duration_s=90.0,
    ),
    Suite(
        "short-long",
        "short requests next to long ones",
        (TenantLoad("short", Shape(64, 16), Closed(16)), TenantLoad("long", Shape(512, 128), Closed(16))),
        duration_s=90.0,
    ),
    Suite(
        "on-off",
        "a steady tenant next to one that is on and off by quarters of the run",
        (
            TenantLoad("steady", _EVEN, Closed(16)),
            TenantLoad("burst", _EVEN, Closed(16, on=((0.0, 0.25), (0.5, 0.75)))),
        ),
        duration_s=120.0,
    ),
    Suite(
        "newcomer",
        "8 clients work alone and pause; 32 of another tenant arrive; the first returns",
        (
            TenantLoad(
                "first", _QUIET.shape, Closed(8, on=((0.0, 0.44),)), also=Closed(1, on=((NEWCOMER_AT + 0.002, 1.0),))
            ),
            TenantLoad("newcomer", _EVEN, Closed(32, on=((NEWCOMER_AT, 1.0),))),
        ),
        duration_s=90.0,
        newcomer="newcomer",
    ),
    Suite("peak", "one tenant with 32 clients: the server's capacity", (TenantLoad("peak", _EVEN, Closed(32)),)),
    _vtc("overload", "both over their share, one sending twice as much (Figure 3)", *_steady_tenants(1.5, 3.0)),
    _vtc(
        "multi",
        "eight tenants, all over their share",
        *_steady_tenants(0.4, 0.4, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6),
    ),
    _vtc(
        "weighted",
        "weights 1, 2, 3 and 4, all over their share",
        *_steady_tenants(0.4, 0.8, 1.2, 1.6, weights=(1, 2, 3, 4)),
    ),
    _vtc("proportional", "two under their share, one over it (Figure 4)", *_steady_tenants(0.25, 0.5, 1.5)),
    _vtc(
        "on-off-less",
        "one on and off under its share, one always over it (Figure 5)",
        _open("on-off", on_off(0.5)),
        _open("always", steady(2.0)),
    ),
    _vtc(
        "on-off-overload",
        "one on and off over its share, one always over it (Figure 6)",
        _open("on-off", on_off(2.0)),
        _open("always", steady(3.0)),
    ),
    _vtc(
        "poisson-short-long-1",
        "random arrivals: many short requests next to fewer long ones (Figure 7)",
        _open("short", steady(8.0), Shape(64, 64), poisson=True),
        _open("long", steady(1.5), poisson=True),
    ),
    _vtc(
        "poisson-short-long-2",
        "random arrivals: long input and short output next to the reverse (Figure 8)",
        _open("long-in", steady(8.0), Shape(512, 32), poisson=True),
        _open("long-out", steady(1.5), Shape(32, 512), poisson=True),
    ),
    _vtc(
        "increase",
        "one under its share, one whose rate grows (Figure 9)",
        _open("constant", steady(0.5)),
        _open("growing", ramp(0.2, 2.0)),
    ),
    _vtc(
        "dist-shift",
        "on and off, then both over their share, then one under it (Figure 10)",
        _open("first", in_turn(on_off(0.5, 5), steady(1.0), steady(0.5))),
        _open("second", phased(2.0, 1.0, 1.5)),
    ),
)

SUITES: Final = {suite.name: suite for suite in _ALL}
