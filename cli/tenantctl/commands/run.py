"""`tenantctl run`: one prompt, one answer."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any

import typer

from tenantctl import sampling_options as sampling
from tenantctl.answer import Answer, Printer
from tenantctl.client import TENANT_HEADER
from tenantctl.options import ActingTenant, Json, connect, examples, finite
from tenantctl.prompt import checked, read_prompt
from tenantctl.readiness import waiting_shown
from tenantctl.render import message, print_json
from tenantd.errors import InvalidRequest

EXAMPLES = examples(
    'tenantctl run --tenant acme "Once upon a time"',
    "tenantctl run --tenant acme --chat --system 'Be brief.' 'What is a ledger?'",
    "tenantctl run --tenant acme --max-tokens 200 --timing < prompt.txt",
    "tenantctl run --tenant acme 'Summarise this letter:' < letter.txt",
    "tenantctl run --tenant acme --temperature 0 --json 'The capital of France is' | jq -r .text",
)


def run(
    ctx: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The prompt; omit it, or pass -, to read standard input.")
    ] = None,
    tenant: ActingTenant = None,
    chat: Annotated[bool, typer.Option("--chat", help="As a user's message, through the chat template.")] = False,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="A system message; implies --chat.")] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", help="Output of so many tokens at most.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.001, callback=finite, help="End it when it is not complete by then."),
    ] = None,
    json: Json = False,
    timing: Annotated[bool, typer.Option("--timing", help="Say on standard error how long it took.")] = False,
    temperature: sampling.Temperature = None,
    top_k: sampling.TopK = None,
    top_p: sampling.TopP = None,
    min_p: sampling.MinP = None,
    typical_p: sampling.TypicalP = None,
    repeat_penalty: sampling.RepeatPenalty = None,
    presence_penalty: sampling.PresencePenalty = None,
    frequency_penalty: sampling.FrequencyPenalty = None,
    seed: sampling.Seed = None,
    stop: sampling.Stop = None,
    ignore_eos: sampling.IgnoreEos = False,
    grammar: sampling.Grammar = None,
    schema: sampling.Schema = None,
) -> None:
    """Complete a prompt, printing the text as it comes.

    Text piped or redirected in follows the prompt on a new line; one newline at its end is dropped. Add < /dev/null
    where standard input belongs to something else, as in a loop. Ctrl-C cancels the request; what was generated is
    billed.
    """
    given = {
        "max_tokens": max_tokens,
        "timeout_s": timeout,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "typical_p": typical_p,
        "repeat_penalty": repeat_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "seed": seed,
        "stop": stop or None,
        "ignore_eos": ignore_eos or None,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    settings |= sampling.constraint(grammar, schema)
    path, body = _request(read_prompt(prompt), system, chat or system is not None)
    answer = _ask(ctx, path, {**body, **settings}, tenant, quiet=json)
    if json:
        print_json(answer.as_json())
    if (grammar or schema) and answer.finish_reason == "length":
        message("stopped at its maximum of tokens before it was complete; raise --max-tokens")
    if timing:
        message(answer.timing())


def _request(prompt: str, system: str | None, chat: bool) -> tuple[str, dict[str, Any]]:
    """Where to and what, without the settings."""
    if not chat:
        return "/v1/completions", {"prompt": prompt}
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": checked(system, "--system")})
    return "/v1/chat/completions", {"messages": messages}


def _ask(ctx: typer.Context, path: str, body: dict[str, Any], tenant: str | None, *, quiet: bool) -> Answer:
    """Send it, print the text while it comes unless `quiet`. Raises typer.Exit(130) after Ctrl-C."""
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    answer = Answer()
    printer = Printer()
    try:
        with connect(ctx) as client, ExitStack() as stack:
            with waiting_shown(client, tenant) as name:
                answer.id, events = stack.enter_context(client.stream(path, streamed, tenant, name))
            for piece in answer.read(events):
                if not quiet:
                    printer.write(piece)
    except KeyboardInterrupt:
        printer.interrupted()
        raise typer.Exit(130) from None
    except InvalidRequest as e:
        printer.end_line()
        if e.param == TENANT_HEADER:
            raise InvalidRequest(f"{e.message}; pass --tenant NAME or set TENANTD_API_KEY", param=e.param) from e
        raise
    except Exception:
        printer.end_line()  # the error's message is not part of the text
        raise
    printer.end_line()
    return answer
