"""The self-check: a sound engine passes it, and each broken one is caught by its check."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tenantd.domain import IsolationCheck, Verdict
from tenantd.engine.checks import sameness, texts
from tenantd.engine.checks.permutation import p_value
from tenantd.engine.checks.planted import have_in_common
from tenantd.engine.checks.stage import Clock, Plan, Stage
from tenantd.engine.checks.timing import LEAST_PAIRS
from tenantd.engine.compute import Compute
from tenantd.engine.fake import FakeCompute
from tenantd.engine.selfcheck import SelfCheck
from tenantd.wire.messages import CheckResult, LoadEmbeddings
from tests.engine.checks import broken
from tests.support.loads import fake_load, make_load
from tests.support.tiny_gguf import write_tiny_gguf, write_tiny_lora

LOGITS, CANARIES, RELEASED, TIMING = tuple(IsolationCheck)[:4]
HELD, FAILED, INCONCLUSIVE = tuple(Verdict)


class SimulatedClock:
    """Time passes only while the engine computes, in every pass a little more or less."""

    def __init__(self, noise: float = 0.02) -> None:
        self.now_ns = 0
        self._noise = noise
        self._random = Random(1)

    def sleep(self, duration_s: float) -> None:
        self.now_ns += round(duration_s * 1e9 * self._random.lognormvariate(0, self._noise))

    def spend(self, duration_ns: int) -> None:
        self.now_ns += duration_ns

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now_ns, self.spend)


def plan(seed: str = "1", **changes: object) -> Plan:
    return Plan(**{"seed": seed, "quick": True, "most_pass_tokens": 64, **changes})  # type: ignore[arg-type]


def engine(kind: type[FakeCompute], time: SimulatedClock, **changes: object) -> FakeCompute:
    return kind(fake_load(**{"fake_step_micros": 4000, "fake_token_micros": 500, **changes}), time.sleep)


def checked(
    kind: type[FakeCompute], *, noise: float = 0.02, seed: str = "1", **changes: object
) -> dict[IsolationCheck, CheckResult]:
    """The results of a quick check, by name."""
    time = SimulatedClock(noise)
    check = SelfCheck(engine(kind, time, **changes), plan(seed), time.clock)
    parts = [check.progress for _ in check.run()]
    assert parts == sorted(parts) and parts[-1] <= 1.0
    assert [result.name for result in check.results] == [LOGITS, CANARIES, RELEASED, TIMING]
    return {result.name: result for result in check.results}


@pytest.mark.parametrize("slots", [1, 2, 4, 8])
def test_a_sound_engine_passes_every_check(slots: int) -> None:
    results = checked(FakeCompute, slots=slots)
    assert {result.result for result in results.values()} == {HELD}
    assert all(result.n >= 10 and not result.detail for result in results.values())
    assert results[TIMING].n >= LEAST_PAIRS and (results[TIMING].p or 0) >= 0.001


BROKEN = {
    broken.Mixing: LOGITS,
    broken.Confusing: LOGITS,
    broken.Echoing: CANARIES,
    broken.NotClearing: RELEASED,
    broken.Holding: RELEASED,
    broken.SharingCopies: LOGITS,
    broken.ConfusingPrefixes: LOGITS,
    broken.LeavingPrefixes: RELEASED,
    broken.EchoingPrefixes: CANARIES,
    broken.Remembering: TIMING,
}


BROKEN_FOR_TEXTS = (broken.MixingTexts, broken.SwappingTexts, broken.CountingTexts)


@pytest.mark.parametrize("pooling", ["mean", "rank"])
@pytest.mark.parametrize("kind", [FakeCompute, *BROKEN_FOR_TEXTS], ids=lambda kind: kind.__name__)
def test_texts_of_others_must_not_matter_either(kind: type[FakeCompute], pooling: str) -> None:
    own = LoadEmbeddings(model_path="", pooling=pooling, input_tokens=20)
    time = SimulatedClock()
    stage = Stage(engine(kind, time, embeddings=own), plan(), time.clock)
    course = texts.check(stage)
    with pytest.raises(StopIteration) as ended:
        while 0 <= next(course) <= 1:
            pass
    result = ended.value.value
    assert result.result is (FAILED if kind in BROKEN_FOR_TEXTS else HELD)
    assert ("vectors of texts" in result.detail) == (kind in BROKEN_FOR_TEXTS)
    assert kind is not FakeCompute or stage.compute.is_empty()


@pytest.mark.parametrize("seed", ["1", "2", "3"])
@pytest.mark.parametrize(("kind", "name"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_broken_engine_is_caught_by_its_check(kind: type[FakeCompute], name: IsolationCheck, seed: str) -> None:
    result = checked(kind, seed=seed)[name]
    assert result.result is FAILED and result.detail
    if name is TIMING:
        assert result.p is not None and result.p < 0.001 and "took 1.0" in result.detail


def test_an_engine_that_never_forgets_is_not_said_to_hold() -> None:
    """It gives other logits each time, so it cannot be told from one that is not exact."""
    assert checked(broken.Accumulating)[RELEASED].result is INCONCLUSIVE


def test_an_engine_that_is_never_exact_is_not_said_to_mix_anything() -> None:
    results = checked(broken.Inexact)
    assert {name: result.result for name, result in results.items()} == {
        LOGITS: INCONCLUSIVE,
        CANARIES: HELD,
        RELEASED: INCONCLUSIVE,
        TIMING: HELD,
    }
    assert "for the same contents" in results[LOGITS].detail


def test_times_are_inconclusive_where_a_planted_delay_is_not_seen_either() -> None:
    for kind in (FakeCompute, broken.Remembering):
        result = checked(kind, noise=1.0)[TIMING]
        assert result.result is INCONCLUSIVE and "too noisy" in result.detail


def test_a_check_ends_in_time_on_an_engine_that_is_too_slow_and_is_inconclusive() -> None:
    time = SimulatedClock()
    check = SelfCheck(engine(FakeCompute, time, fake_step_micros=2_000_000), plan(), time.clock)
    for _ in check.run():
        pass
    assert time.now_ns < 420e9, "an answer of 32 s, or a case of 50 s, may be begun just before the end of a check"
    assert {result.result for result in check.results} == {INCONCLUSIVE}
    assert all("too slow" in result.detail or "pairs" in result.detail for result in check.results)
    assert check.results[3].n < LEAST_PAIRS and check.results[3].p is None


def test_a_quick_check_has_a_result_on_a_machine_that_is_eight_times_as_slow() -> None:
    took_s: list[float] = []
    for factor in (1, 8):
        time = SimulatedClock()
        kind = engine(FakeCompute, time, fake_step_micros=13_000 * factor, fake_token_micros=2000 * factor)
        check = SelfCheck(kind, plan(), time.clock)  # about as gemma 3 270M on two cores
        for _ in check.run():
            pass
        assert {result.result for result in check.results} == {HELD}
        took_s.append(time.now_ns / 1e9)
    assert took_s[0] < 27 and took_s[1] < 285


def test_a_full_check_takes_less_than_five_minutes_whatever_the_speed() -> None:
    for step_micros in (1000, 20_000, 100_000):
        time = SimulatedClock()
        check = SelfCheck(engine(FakeCompute, time, fake_step_micros=step_micros), plan(quick=False), time.clock)
        for _ in check.run():
            pass
        assert time.now_ns < 285e9
        if step_micros < 100_000:
            assert {result.result for result in check.results} == {HELD}


def test_an_engine_that_stops_itself_has_failed_and_runs_nothing_more() -> None:
    class Refusing(FakeCompute):
        def move(self, source: int, target: int) -> None:
            raise AssertionError("not moved completely")

    time = SimulatedClock()
    check = SelfCheck(engine(Refusing, time), plan(), time.clock)
    for _ in check.run():
        pass
    assert check.is_broken
    assert [result.result for result in check.results] == [FAILED, INCONCLUSIVE, INCONCLUSIVE, INCONCLUSIVE]
    assert "not moved completely" in check.results[0].detail and "restarted" in check.results[1].detail


def test_a_check_that_is_ended_early_leaves_nothing_behind() -> None:
    pauses = 0
    for stop_at in (1, 3, 10, 40, 200, 500, 900, 1100):
        time = SimulatedClock()
        compute = engine(FakeCompute, time)
        check = SelfCheck(compute, plan(), time.clock)
        course = check.run()
        for pauses, _ in enumerate(course, 1):
            if pauses == stop_at:
                break
        course.close()
        assert compute.is_empty() and compute.on_logits is None and not check.is_broken
    assert pauses > 500, "the last ones were in the last check"


def test_slots_that_are_too_short_are_not_checked() -> None:
    results = checked_all(FakeCompute(fake_load(context_tokens=64)), plan())
    assert {result.result for result in results} == {INCONCLUSIVE}
    assert "engine.context_tokens" in results[0].detail


def checked_all(compute: Compute, how: Plan) -> list[CheckResult]:
    check = SelfCheck(compute, how)
    for _ in check.run():
        pass
    assert compute.is_empty()
    return check.results


@pytest.mark.parametrize("kv", ["streams", "unified"])
def test_llama_cpp_passes_with_adapters_in_both_layouts(
    tmp_path: Path, kv: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the times, which a machine that runs tests is too noisy for."""
    from tenantd.engine import selfcheck
    from tenantd.engine.llama import LlamaCompute

    exact = {name: check for name, check in selfcheck.CHECKS.items() if name is not TIMING}
    monkeypatch.setattr(selfcheck, "CHECKS", exact)
    monkeypatch.setitem(sameness.TIME_S, True, 0.5)
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    adapters = (str(write_tiny_lora(tmp_path / "lora.gguf")), str(tmp_path / "missing.gguf"))
    compute = LlamaCompute(make_load(backend="llama", model_path=str(model), kv=kv), lambda _: None)
    results = checked_all(compute, plan(adapters=adapters))
    compute.close()
    assert [(result.name, result.result) for result in results] == [(name, HELD) for name in exact]
    assert all(result.n >= 10 for result in results)


def test_schedules_have_everything_that_an_engine_does_with_sequences() -> None:
    stage = Stage(FakeCompute(fake_load(slots=6)), plan())
    drawn = [sameness.draw_schedule(stage, Random(seed), ["", "lora"]) for seed in range(30)]
    operations = [operation for schedule in drawn for operation in schedule]
    with_requests = {"begin", "run", "move", "swap_out", "swap_in", "drop", "end"}
    assert {each.what for each in operations} == with_requests | {"fork", "park", "resume", "store", "fetch"}
    assert not any(each.what == "fork" and each.request == sameness.A for each in operations)
    assert {each.adapter for each in operations if each.what == "begin"} == {"", "lora"}
    assert max(len(each.counts) for each in operations) == sameness.REQUESTS
    for schedule in drawn:
        assert any(request == sameness.A for each in schedule for request, _ in each.counts)


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_p_values_are_those_of_wilcoxon_and_uniform_where_nothing_differs() -> None:
    random = Random(5)
    found = [p_value([random.gauss(0, 1) for _ in range(50)], seed) for seed in range(100)]
    for level in (0.05, 0.2, 0.5):
        share = sum(p < level for p in found) / len(found)
        assert abs(share - level) < 3 * (level * (1 - level) / len(found)) ** 0.5
    # all 5 to one side: 2 of the 32 assignments of signs are as far
    assert p_value([1, 2, 3, 4, 5], 1) == pytest.approx(2 / 32, abs=0.01)
    assert p_value([0.0] * 50, 1) == 1.0 and p_value([], 1) == 1.0
    assert p_value([1.0] * 200, 1) == pytest.approx(1 / 20_001)


def test_a_few_outliers_decide_nothing() -> None:
    random = Random(6)
    quiet = [random.gauss(0, 1) for _ in range(200)]
    assert p_value([*quiet, 1e9, 1e9], 1) == pytest.approx(p_value(quiet, 1), abs=0.2)
    assert p_value([value + 1 for value in quiet] + [-1e9, -1e9], 1) < 0.001


def test_parts_of_a_canary_are_found() -> None:
    secret = [5, 6, 7, 8, 9]
    assert have_in_common([1, 6, 7, 8, 2], secret, 3)
    assert not have_in_common([6, 7, 1, 8, 9], secret, 3)
    assert not have_in_common(secret, secret[:2], 3)
