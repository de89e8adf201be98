"""`tenantctl chat`: a conversation with the model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from tenantctl import sampling_options as sampling
from tenantctl.chat_answers import Answers, say_remarks
from tenantctl.chat_input import Typist
from tenantctl.client import Client
from tenantctl.conversation import SETTINGS, Conversation
from tenantctl.options import ActingTenant, connect, examples
from tenantctl.prompt_input import checked
from tenantctl.render import complain, message
from tenantctl.units import plural
from tenantctl.whole_files import write_whole
from tenantd.errors import ContextLengthExceeded, InvalidRequest, TenantdError
from tenantd.paths import default_state_dir

EXAMPLES = examples(
    "tenantctl chat --tenant acme",
    "tenantctl chat --tenant acme --system 'Answer in French.' --temperature 0.2",
    "tenantctl chat --tenant acme --load letter.json",
)
MOST_SAVED_BYTES: Final = 64 << 20
COMMANDS: Final = {
    "/system [TEXT|none]": "show, set or remove the system message",
    "/set [NAME [VALUE]]": "show, change or reset settings: /set temperature 0.2",
    "/save FILE": "save the conversation",
    "/load FILE": "continue a saved conversation",
    "/retry": "ask the last question again, answered or not",
    "/usage": "show tokens and cost of this chat",
    "/clear": "forget the conversation",
    "/help": "show this help",
    "/bye": "end the chat, as does Ctrl-D",
}
NAMES: Final = tuple(command.partition(" ")[0] for command in COMMANDS)
HELP: Final = "\n".join(
    f"{what:21}{does}"
    for what, does in {
        **COMMANDS,
        '"""': "begin or end a message of several lines",
        "Ctrl-C": "stop the answer",
    }.items()
)


def chat(
    ctx: typer.Context,
    tenant: ActingTenant = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="Begin with this system message.")] = None,
    load: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Continue a saved conversation.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Generate at most N tokens for each answer.")
    ] = None,
    temperature: sampling.Temperature = None,
    seed: sampling.Seed = None,
    no_history: Annotated[bool, typer.Option("--no-history", help="Do not keep what you type.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Print answers without formatting their Markdown.")] = False,
) -> None:
    """Have a conversation with the model.

    The model reads the whole conversation each time, so its tokens count again with every message; a prefix cache makes
    them cheaper. /help lists the commands, and triple quotes begin and end a message of several lines. Ctrl-C stops
    the answer, not the chat. What you type is kept, for each tenant, in a file that only you can read; recall it with
    the arrow keys. Answers are not kept.
    """
    conversation = Conversation() if load is None else _loaded(load)
    if system is not None:
        conversation.system = checked(system, "--system")
    conversation.settings |= sampling.settings({"max_tokens": max_tokens, "temperature": temperature, "seed": seed})
    with connect(ctx) as client:
        own = client.own("/v1/limits", tenant)
        name = own["tenant"]
        history = None if no_history else default_state_dir() / "chat" / f"{name}.history"
        talk = Chat(client, tenant, conversation, plain=plain)
        if own["state"] == "suspended":
            message(f"warning: {name} is suspended and gets no answers; resume it with: tenantctl tenant resume {name}")
        talk.talk(name, Typist(history, NAMES))


class Chat:
    """A conversation at a terminal, until its user ends it."""

    def __init__(self, client: Client, tenant: str | None, conversation: Conversation, *, plain: bool) -> None:
        self._conversation = conversation
        self._answers = Answers(client, tenant, plain=plain)
        self._model = client.own("/v1/models", tenant)["data"][0]
        self._saved: set[Path] = set()

    def talk(self, name: str, typist: Typist) -> None:
        """Take turns until the end."""
        message(
            f"{name} is chatting with {self._model['id']}.\n/help lists the commands; /bye or Ctrl-D ends the chat."
        )
        if self._model.get("chat_template") is False:
            message("warning: this is a base model (it has no chat template), so it may only continue text")
        while True:
            try:
                typed = typist.read()
                if typed is None or typed.strip() in ("/bye", "/exit", "/quit"):
                    break
                self._take(typed)
            except KeyboardInterrupt:
                message("\n/bye or Ctrl-D ends the chat")
            except TenantdError as e:
                complain(e.message)
        message(self._answers.spent())

    def _take(self, typed: str) -> None:
        """A message or a command. Raises TenantdError."""
        command, _, rest = typed.strip().partition(" ")
        if not typed.strip():
            return
        if not command.startswith("/") or "\n" in typed:
            self._send(checked(typed, "the message"))
            return
        match command, rest.strip():
            case "/system", text:
                self._system(text)
            case "/set", text:
                self._set(text)
            case "/save", text:
                self._save(text)
            case "/load", text:
                self._conversation = _loaded(_file_name(text, "/load"))
                message(f"loaded {plural(len(self._conversation.messages) // 2, 'answered message')}")
            case "/retry", "":
                self._retry()
            case "/usage", "":
                message(self._answers.spent())
            case "/clear", "":
                self._conversation.clear()
                message("cleared")
            case "/help", _:
                message(HELP)
            case "/retry" | "/usage" | "/clear", _:
                raise InvalidRequest(f"{command} takes nothing after it")
            case _:
                raise InvalidRequest(f"no command {command}; /help lists them")

    def _send(self, text: str) -> None:
        """Get an answer. A message that gets none stays, for /retry."""
        self._conversation.unsent = text
        self._ask(text)

    def _ask(self, text: str, *, again: bool = False) -> None:
        """Get an answer: `again` another to the last message, whose answer stays if none comes."""
        try:
            answer, is_whole = self._answers.ask(self._conversation.body(text, again=again))
        except TenantdError as e:
            first = "after /clear, " if isinstance(e, ContextLengthExceeded) else ""
            kept = f"Your message is kept: {first}/retry sends it again."
            complain(f"{e.message}\n{'The answer you had is kept.' if again else kept}")
            return
        if is_whole or answer.text:
            self._conversation.add(text, answer.text, again=again)
        context_tokens = self._model.get("context_length") or self._model.get("max_model_len")
        say_remarks(answer, is_whole=is_whole, context_tokens=context_tokens)

    def _retry(self) -> None:
        if not (text := self._conversation.last_message):
            raise InvalidRequest("there is no message to send again")
        self._ask(text, again=not self._conversation.unsent)

    def _system(self, text: str) -> None:
        if text:
            self._conversation.system = "" if text == "none" else checked(text, "the system message")
        message(f"system message: {self._conversation.system or 'none'}")

    def _set(self, text: str) -> None:
        if text:
            name, _, value = text.partition(" ")
            self._conversation.set(name, value.strip())
        settings = self._conversation.settings
        for name in SETTINGS:
            if name in settings or not text:
                message(f"{name:18} {settings.get(name, 'default')}")

    def _save(self, text: str) -> None:
        path = _file_name(text, "/save")
        if path not in self._saved and os.path.lexists(path):
            raise InvalidRequest(f"{path} already exists; choose another name")
        try:
            write_whole(path, self._conversation.text())
        except OSError as e:
            raise InvalidRequest(f"cannot write {path}: {e.strerror}") from None
        self._saved.add(path)
        message(f"saved {path}")


def _file_name(text: str, command: str) -> Path:
    if not text:
        raise InvalidRequest(f"{command} needs the name of a file")
    try:
        return Path(text).expanduser()
    except RuntimeError as e:  # ~ of an unknown user
        raise InvalidRequest(str(e)) from None


def _loaded(path: Path) -> Conversation:
    """A saved conversation. Raises InvalidRequest."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_SAVED_BYTES + 1)
        if len(data) > MOST_SAVED_BYTES:
            raise InvalidRequest(f"{path} has more than {MOST_SAVED_BYTES} bytes")
        return Conversation.of(data.decode("utf-8"))
    except OSError as e:
        raise InvalidRequest(f"cannot read {path}: {e.strerror}") from None
    except (ValueError, InvalidRequest) as e:
        raise InvalidRequest(
            f"cannot load {path}: {e.message if isinstance(e, InvalidRequest) else 'it is not text'}"
        ) from None
