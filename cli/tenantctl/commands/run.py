"""`tenantctl run`: one prompt, one answer."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any

import typer

from tenantctl import sampling_options as sampling
from tenantctl.options import ActingTenant, Json, connect, examples, finite
from tenantctl.prompt_input import checked, read_prompt
from tenantctl.queue_place import waiting_shown
from tenantctl.render import message, print_json
from tenantctl.transcript import Printer, Transcript

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
        str | None, typer.Argument(metavar="PROMPT", help="Prompt; omit it or pass - to read standard input.")
    ] = None,
    tenant: ActingTenant = None,
    chat: Annotated[bool, typer.Option("--chat", help="Send as a chat message, using the model's template.")] = False,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="Add a system message; implies --chat.")] = None,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", help="Generate at most N tokens.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.001, callback=finite, help="Cancel it if it takes longer than SECONDS."),
    ] = None,
    json: Json = False,
    timing: Annotated[bool, typer.Option("--timing", help="Print timing to stderr.")] = False,
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
    """Complete a prompt and print the text as it is generated.

    Text from standard input follows the prompt on a new line. Add < /dev/null if standard input belongs to something
    else, as in a shell loop. Ctrl-C cancels the request; tokens generated so far are billed.
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
        message("the answer is incomplete: it reached the maximum of tokens; raise --max-tokens")
    if timing:
        message(answer.timing())


def _request(prompt: str, system: str | None, chat: bool) -> tuple[str, dict[str, Any]]:
    """The route and the body, without sampling settings."""
    if not chat:
        return "/v1/completions", {"prompt": prompt}
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": checked(system, "--system")})
    return "/v1/chat/completions", {"messages": messages}


def _ask(ctx: typer.Context, path: str, body: dict[str, Any], tenant: str | None, *, quiet: bool) -> Transcript:
    """Send the request and, unless `quiet`, print the text as it comes. Raises typer.Exit(130) after Ctrl-C."""
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    answer = Transcript()
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
    except Exception:
        printer.end_line()  # start the error message on a line of its own
        raise
    printer.end_line()
    return answer
