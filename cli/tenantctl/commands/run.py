"""`tenantctl run`: one prompt, one answer."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tenantctl import sampling_options as sampling
from tenantctl.answer_start import ENGINE_WAIT_S, start_answer
from tenantctl.client import Client
from tenantctl.options import ActingTenant, Json, connect, examples, finite
from tenantctl.prompt_input import checked, read_prompt
from tenantctl.render import message, print_json
from tenantctl.transcript import OUT_OF_BUDGET, Printer, Transcript

EXAMPLES = examples(
    'tenantctl run --tenant acme "What is a ledger?"',
    "tenantctl run --tenant acme --system 'Be brief.' -f letter.txt 'Summarise this letter.'",
    "tenantctl run --tenant acme --max-tokens 200 --timing < prompt.txt",
    "tenantctl run --tenant acme --raw 'Once upon a time'",
    "tenantctl run --tenant acme --temperature 0 --json 'The capital of France is' | jq -r .text",
)


def run(
    ctx: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="Prompt; omit it or pass - to read standard input.")
    ] = None,
    tenant: ActingTenant = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            "--file", "-f", metavar="FILE", dir_okay=False, help="Add this text file to the prompt; may be repeated."
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="Add a system message; implies --chat.")] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Send a chat message, even if the model has no chat template.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Let the model continue the prompt, without its chat template.")
    ] = False,
    max_tokens: Annotated[int | None, typer.Option(metavar="N", help="Generate at most N tokens.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.001, callback=finite, help="Cancel the request after SECONDS."),
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
    """Send one prompt and print the answer as it is generated.

    The prompt is sent as a chat message if the model has a chat template. A base model has none and continues the
    prompt. A model's reasoning goes to standard error. Text from standard input is added to the prompt on a new line;
    add < /dev/null if standard input is for something else, as in a shell loop. On a terminal, long lines are broken
    between words, except in code and in answers to --schema or --grammar; a pipe gets the exact text. Ctrl-C cancels
    the request; tokens generated so far are billed.
    """
    wanted, settings = _wanted(raw, chat, system), sampling.settings(ctx.params)
    text = read_prompt(prompt, file or (), raw=raw)
    with connect(ctx) as client:
        has_template, note = _has_template(client) if wanted is None else (wanted == "chat", "")
        answer = _ask(client, *_request(text, system, settings, has_template), tenant, note, quiet=json)
    if json:
        print_json(answer.as_json())
    _say_if_cut(answer, is_constrained=bool(grammar or schema))
    if timing:
        message(answer.timing())
    if schema and answer.finish_reason == "length":
        raise typer.Exit(1)  # what is printed is no JSON


def _say_if_cut(answer: Transcript, *, is_constrained: bool) -> None:
    if answer.is_out_of_budget:
        message(OUT_OF_BUDGET)
    elif is_constrained and answer.finish_reason == "length":
        message("the answer is incomplete: it reached its token limit; raise --max-tokens")


def _wanted(raw: bool, chat: bool, system: str | None) -> Literal["raw", "chat"] | None:
    """How the options say to send the prompt; None if the model decides. Raises BadParameter, InvalidRequest."""
    if system is not None:
        checked(system, "--system")
    if not raw:
        return "chat" if chat or system is not None else None
    if chat or system is not None:
        raise typer.BadParameter("choose one of --raw and " + ("--chat" if chat else "--system"), param_hint="--raw")
    return "raw"


def _has_template(client: Client) -> tuple[bool, str]:
    """Whether prompts can be sent as chat messages, and what to say if not."""
    model, note = client.model(), ""
    if (found := model.get("chat_template")) is False:
        note = (
            f"{model['id']} is a base model (it has no chat template), so it continues the prompt; "
            "--raw hides this note"
        )
    return bool(found), note


def _request(prompt: str, system: str | None, settings: dict[str, Any], chat: bool) -> tuple[str, dict[str, Any]]:
    """The route and the body."""
    if not chat:
        return "/v1/completions", {"prompt": prompt, **settings}
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return "/v1/chat/completions", {"messages": messages, **settings}


def _ask(client: Client, path: str, body: dict[str, Any], tenant: str | None, note: str, *, quiet: bool) -> Transcript:
    """Send the request, say `note` once it is answered and, unless `quiet`, print the text as it comes. Raises
    typer.Exit(130) after Ctrl-C."""
    answer = Transcript()
    is_constrained = "grammar" in body or "response_format" in body  # what is copied must still be what was asked for
    printer, thoughts = Printer(exact=is_constrained), Printer(sys.stderr)
    try:
        with ExitStack() as stack:
            wait_s = min(ENGINE_WAIT_S, body.get("timeout_s", ENGINE_WAIT_S))
            answer.id, events = start_answer(client, stack, path, body, tenant, wait_s)
            if note:
                message(note)
            for piece in answer.read(events, (lambda _: None) if quiet else thoughts.write):
                if not quiet:
                    thoughts.end_line()
                    printer.write(piece)
    except KeyboardInterrupt:
        thoughts.end_line()  # with the word that was held back
        printer.interrupted()
        raise typer.Exit(130) from None
    except Exception:
        thoughts.end_line()
        printer.end_line()  # start the error message on a line of its own
        raise
    thoughts.end_line()
    printer.end_line()
    return answer
