"""Check `logits`: with the same schedule, and only the contents of others different, a request's logits are the same.

A random schedule of requests A to D is drawn: who is bound to which sequence with which adapter, how many tokens each
gets in which pass, who is moved, swapped out and in, released and begun again; who leaves a prefix, where it is kept,
and who begins with it. It is run several times, with other contents of B, C and D: their tokens and sampling settings.
They may begin with what A computed, but A never with theirs. The logits of A must be the same to the last bit, and so
must the tokens drawn from them. Only the same shapes can be compared, because llama.cpp picks its kernels by shape.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple

from tenantd.domain import IsolationCheck, Sampling, Verdict
from tenantd.engine.checks.stage import GREEDY, LEAST_CONTEXT_TOKENS, OUT_OF_TIME, Course, Stage
from tenantd.wire.messages import CheckResult

REQUESTS: Final = 4
A: Final = 0
MOST_TOKENS: Final = LEAST_CONTEXT_TOKENS
"""Maximum length of a request."""
MOST_CHUNK: Final = 24
OPERATIONS: Final = {True: 44, False: 64}
"""Of a schedule, if quick and if not."""
CONTENTS: Final = (0, 0, 0, 1, 2)
"""The contents of each run of a schedule. The first brings every schedule to the same start, and the next two show
whether the engine is exact at all: some GPU kernels are not."""
TIME_S: Final = {True: 2.0, False: 40.0}
"""How long to draw new schedules, if quick and if not. At least one is completed, unless that takes longer than
`MOST_S`."""
MOST_S: Final = 50.0


class Operation(NamedTuple):
    """A step of a schedule. `what` is done in `_Run.do`; `counts` are tokens by request, `source` is the request that
    is copied."""

    what: str
    request: int = A
    sequence: int = 0
    adapter: str = ""
    counts: tuple[tuple[int, int], ...] = ()
    source: int = A


@dataclass(slots=True)
class _Place:
    """Where a request is while a schedule is drawn: on a sequence, or kept (None). `is_parked`: it has ended, and this
    is its prefix."""

    sequence: int | None
    adapter: str
    length: int = 0
    is_parked: bool = False


def check(stage: Stage) -> Course:
    """Run it. Yields its progress."""
    adapters = ["", *stage.usable_adapters()]
    enough, last = stage.deadline(TIME_S[stage.plan.quick]), stage.deadline(MOST_S)
    rows = schedules = 0
    while not schedules or not enough.is_over:
        schedule = draw_schedule(stage, stage.plan.random("schedule", schedules), adapters)
        seen: list[list[tuple[bytes, int]]] = []
        for at, content in enumerate(CONTENTS):
            run = _Run(stage, schedules, content)
            for done, operation in enumerate(schedule):
                run.do(operation)
                yield max((at + done / len(schedule)) / len(CONTENTS) / 2, min(1.0, enough.part))
                if last.is_over:
                    verdict = Verdict.HELD if schedules else Verdict.INCONCLUSIVE
                    return _result(verdict, rows, "" if schedules else OUT_OF_TIME.format(f"{at} of 5 runs"))
            stage.clear_all()
            seen.append(run.rows)
        _, reference, again, *others = seen
        if reference != again:
            return _result(Verdict.INCONCLUSIVE, rows, "the engine computes other logits for the same contents")
        for other in others:
            rows += len(other)
            if other != reference:
                where = next(i for i, (mine, its) in enumerate(zip(reference, other, strict=True)) if mine != its)
                why = f"logits of pass {where + 1} of {len(reference)} depend on what other requests contain"
                return _result(Verdict.FAILED, rows, why)
        schedules += 1
    return _result(Verdict.HELD, rows)


def _result(verdict: Verdict, rows: int, detail: str = "") -> CheckResult:
    return CheckResult(name=IsolationCheck.LOGITS, result=verdict, n=rows, detail=detail)


# ---- schedules ----------------------------------------------------------------------------------------------


def draw_schedule(stage: Stage, random: Random, adapters: list[str]) -> list[Operation]:
    """A random schedule. It begins with passes of A, so that there is always something to compare."""
    drawing = _Drawing(stage, random, adapters)
    while len(drawing.operations) < OPERATIONS[stage.plan.quick]:
        drawing.add()
    return drawing.operations


class _Drawing:
    """A schedule being drawn, and where its requests are."""

    def __init__(self, stage: Stage, random: Random, adapters: list[str]) -> None:
        self.operations: list[Operation] = []
        self._random = random
        self._adapters = adapters
        self._most_pass_tokens = stage.plan.most_pass_tokens
        self._free = set(range(min(stage.slots, REQUESTS + 2)))  # two more than needed, to move to
        self._places: dict[int, _Place] = {}
        for request in (A, A + 1):  # two states are kept at the same time
            self._begin(request)
            self._add_pass([request])
            self._swap_out(request)
        self._swap_in(A)
        self._add_pass([A])
        for request in (A, A + 1):  # and two prefixes
            if request != A:
                self._swap_in(request)
            self._park(request)
            self._swap_out(request)
        self._swap_in(A, max(self._free))
        self._resume(A)
        if self._free:  # before A in a pass
            self._swap_in(A + 1, min(self._free))
            self._resume(A + 1)
        if self._free:
            self._fork(A, A + 2)
        for _ in range(2):
            self._add_pass(self._running())

    def _running(self) -> list[int]:
        """Requests that have a sequence."""
        return [one for one, place in self._places.items() if place.sequence is not None and not place.is_parked]

    def add(self) -> None:
        """Add an operation, mostly a pass."""
        here = [request for request, place in self._places.items() if place.sequence is not None]
        bound = self._running()
        parked = [request for request in here if self._places[request].is_parked]
        kept = [request for request, place in self._places.items() if place.sequence is None]
        absent = [request for request in range(REQUESTS) if request not in self._places]
        ended = [request for request in bound if self._places[request].length]
        copies = [(source, new) for source in [*ended, *parked] for new in absent if new != A]
        choices = ["run"] * 7 * bool(bound) + ["swap_out", "swap_out", "end"] * bool(here) + ["drop"] * bool(kept)
        choices += ["park"] * 2 * bool(ended) + ["resume"] * 2 * bool(parked)
        if self._free:
            choices += ["move"] * bool(here) + ["swap_in"] * 2 * bool(kept) + ["begin"] * 4 * bool(absent)
            choices += ["fork"] * bool(copies)
        match self._random.choice(choices):
            case "run":
                self._add_pass(bound)
            case "begin":
                self._begin(A if A in absent else self._random.choice(absent))
            case "fork":
                self._fork(*self._random.choice(copies))
            case "park":
                self._park(self._random.choice(ended))
            case "resume":
                self._resume(self._random.choice(parked))
            case "move":
                request = self._random.choice(here)
                target = self._take()
                self.operations.append(Operation("move", request, target))
                self._put(request, target)
            case "swap_out":
                self._swap_out(self._random.choice(here))
            case "swap_in":
                self._swap_in(self._random.choice(kept))
            case "drop":
                request = self._random.choice(kept)
                self.operations.append(Operation("drop", request))
                del self._places[request]
            case "end":
                self._end(self._random.choice(here))

    def _add_pass(self, bound: list[int]) -> None:
        """A pass of some requests with one adapter, decoding or in their prompts, with A if it can be. One that is at
        its end ends."""
        ended = [request for request in bound if self._places[request].length + MOST_CHUNK > MOST_TOKENS]
        for request in ended:
            self._end(request)
        if not (able := [request for request in bound if request not in ended]):
            return
        adapter = self._places[A if A in able else self._random.choice(able)].adapter
        able = [request for request in able if self._places[request].adapter == adapter]
        chosen = {*self._random.sample(able, self._random.randint(1, len(able))), *({A} & {*able})}
        most = max(1, min(MOST_CHUNK, self._most_pass_tokens // len(chosen)))
        is_decode = self._random.random() < 0.5
        counts = tuple((request, 1 if is_decode else self._random.randint(1, most)) for request in sorted(chosen))
        for request, count in counts:
            self._places[request].length += count
        self.operations.append(Operation("run", counts=counts))

    def _begin(self, request: int) -> None:
        sequence, adapter = self._take(), self._random.choice(self._adapters)
        self._places[request] = _Place(sequence, adapter)
        self.operations.append(Operation("begin", request, sequence, adapter))

    def _fork(self, source: int, request: int) -> None:
        """A request begins with what another one has computed."""
        place, target = self._places[source], self._take()
        self._places[request] = _Place(target, place.adapter, place.length)
        self.operations.append(Operation("fork", request, target, place.adapter, source=source))

    def _park(self, request: int) -> None:
        self.operations.append(Operation("park", request))
        self._places[request].is_parked = True

    def _resume(self, request: int) -> None:
        place = self._places[request]
        tokens = self._random.choice([place.length, self._random.randint(1, place.length)])
        self.operations.append(Operation("resume", request, adapter=place.adapter, counts=((request, tokens),)))
        place.length, place.is_parked = tokens, False

    def _swap_out(self, request: int) -> None:
        what = "store" if self._places[request].is_parked else "swap_out"
        self.operations.append(Operation(what, request))
        self._put(request, None)

    def _swap_in(self, request: int, sequence: int | None = None) -> None:
        place, target = self._places[request], self._take(sequence)
        what = "fetch" if place.is_parked else "swap_in"
        self.operations.append(Operation(what, request, target, place.adapter))
        self._put(request, target)

    def _end(self, request: int) -> None:
        self.operations.append(Operation("end", request))
        self._put(request, None)
        del self._places[request]

    def _take(self, sequence: int | None = None) -> int:
        """This free sequence, or any."""
        if sequence is None:
            sequence = self._random.choice(sorted(self._free))
        self._free.discard(sequence)
        return sequence

    def _put(self, request: int, sequence: int | None) -> None:
        place = self._places[request]
        if place.sequence is not None:
            self._free.add(place.sequence)
        place.sequence = sequence


# ---- runs ---------------------------------------------------------------------------------------------------


class _Run:
    """One run of a schedule with one content. `rows` are, for each pass of A, a digest of its logits and the token
    drawn from them."""

    def __init__(self, stage: Stage, schedule: int, content: int) -> None:
        self.rows: list[tuple[bytes, int]] = []
        self._digest = b""
        self._stage = stage
        self._sequences: dict[int, int] = {}  # of bound requests
        self._fed: dict[int, list[int]] = {}
        self._texts = {
            request: stage.plan.random("text", schedule, request, 0 if request == A else content)
            for request in range(REQUESTS)
        }
        stage.compute.on_logits = self._see

    def do(self, operation: Operation) -> None:
        """One step of the schedule."""
        request, target = operation.request, operation.sequence
        match operation.what:
            case "run":
                self._run(operation.counts)
            case "begin":
                self._begin(operation)
            case "move":
                self._stage.move(self._sequences[request], target)
                self._sequences[request] = target
            case "swap_out":
                self._stage.swap_out(self._sequences.pop(request), request)
            case "swap_in":
                self._sequences[request] = target
                if not self._stage.swap_in(target, request):
                    self._compute_again(request)
            case "drop":
                self._stage.drop(request)
            case "end":
                self._stage.clear(self._sequences.pop(request))
            case _:
                self._do_with_prefix(operation)

    def _do_with_prefix(self, operation: Operation) -> None:
        request, target = operation.request, operation.sequence
        match operation.what:
            case "fork":
                fed = [*self._fed[operation.source]]
                if self._stage.copy(self._sequences[operation.source], target):
                    self._sequences[request], self._fed[request] = target, fed
                    self._resume(operation, len(fed))
                else:
                    self._begin(operation)
                    self._fed[request] = fed
                    self._compute_again(request)
            case "park":
                self._stage.park(self._sequences[request])
            case "resume":
                ((_, tokens),) = operation.counts
                self._resume(operation, tokens)
            case "store":
                self._stage.store(self._sequences.pop(request), request)
            case "fetch":
                if self._stage.fetch(target, request):
                    self._sequences[request] = target
                else:
                    fed = self._fed[request]
                    self._begin(operation)
                    self._fed[request] = fed
                    self._compute_again(request)
                    self._stage.park(target)

    def _begin(self, operation: Operation) -> None:
        request = operation.request
        self._stage.bind(operation.sequence, _sampling(self._texts[request]), [], operation.adapter)
        self._sequences[request], self._fed[request] = operation.sequence, []

    def _resume(self, operation: Operation, tokens: int) -> None:
        request = operation.request
        sampling = _sampling(self._texts[request])
        self._fed[request] = self._fed[request][:tokens]
        if not self._stage.resume(self._sequences[request], sampling, tokens, operation.adapter):
            self._compute_again(request)

    def _run(self, counts: tuple[tuple[int, int], ...]) -> None:
        tokens: dict[int, list[int]] = {}
        for request, count in counts:
            fresh = self._stage.tokens(self._texts[request], count)
            self._fed[request] += fresh
            tokens[self._sequences[request]] = fresh
        sampled = self._stage.feed(tokens)
        if A in self._sequences and (its := sampled.get(self._sequences[A])) is not None:
            self.rows.append((self._digest, its.token))

    def _compute_again(self, request: int) -> None:
        """Its state did not fit, so it takes as many passes as it needs, by itself."""
        if fed := self._fed[request]:
            self._stage.prefill(self._sequences[request], fed)

    def _see(self, sequence: int, logits: memoryview[float]) -> None:
        if self._sequences.get(A) == sequence:
            self._digest = hashlib.blake2b(logits, digest_size=16).digest()


def _sampling(random: Random) -> Sampling:
    """Settings drawn from a request's contents: what a neighbour's sampler does must not matter either."""
    seed = random.getrandbits(31)
    wild = Sampling(temperature=1.2, top_k=0, top_p=1, min_p=0, seed=seed, ignore_eos=True)
    penalised = Sampling(temperature=0.8, repeat_penalty=1.1, presence_penalty=0.5, seed=seed)
    return random.choice([GREEDY, wild, penalised])
