"""What the completion scripts offer: commands, options, and the values of each.

Values are read from metavars, as `tenantctl.options` describes, or are those of a known list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tenantctl.bench.suites import SUITES
from tenantctl.commands.request_commands import STATES
from tenantctl.commands.usage import By

OFFERED: Final = {"tenant": "tenants", "key": "keys", "request": "recent"}
"""What is looked up while the user types, by name of the parameter."""
LIVE: Final = "requests"
"""What `cancel` looks up instead: requests that are not over."""
LOOKUPS: Final = (*OFFERED.values(), LIVE)
FILE_METAVARS: Final = ("FILE", "GGUF", "DIR")
HELP: Final = "Show this message and exit."


@dataclass(frozen=True)
class Value:
    """What an option or argument takes. `offered` is one of LOOKUPS, or "". Without words, files or offers there is
    nothing to complete."""

    metavar: str
    words: tuple[str, ...] = ()
    is_file: bool = False
    offered: str = ""

    @property
    def lookup(self) -> str:
        """The command that prints what is offered."""
        return f"tenantctl _{self.offered} 2>/dev/null"


@dataclass(frozen=True)
class Option:
    """An option. A flag has no `value`."""

    names: tuple[str, ...]
    help: str
    value: Value | None
    repeats: bool


@dataclass(frozen=True)
class Command:
    """A command. `path` is () for the program itself and ("tenant", "add") for a command of a group."""

    path: tuple[str, ...]
    help: str
    options: list[Option]
    arguments: list[Value]
    commands: list[Command] = field(default_factory=list)

    def walk(self) -> Iterator[Command]:
        yield self
        for command in self.commands:
            yield from command.walk()


def command_tree(program: Any) -> Command:
    """All commands of `program`, click's group."""
    return _command(program, ())


def _command(command: Any, path: tuple[str, ...]) -> Command:
    children = getattr(command, "commands", {})
    names = command.list_commands(None) if children else []
    parameters = [p for p in command.params if not getattr(p, "hidden", False)]
    options = [option for p in parameters if p.param_type_name == "option" for option in _options(p)]
    arguments = [_value(p) for p in parameters if p.param_type_name == "argument"]
    if path == ("cancel",):
        arguments = [replace(arguments[0], offered=LIVE), *arguments[1:]]
    return Command(
        path,
        (command.help or "").strip().split("\n")[0].rstrip("."),
        [*options, Option(("--help", "-h"), HELP, None, False)],
        arguments,
        [_command(children[name], (*path, name)) for name in names if not children[name].hidden],
    )


def _options(parameter: Any) -> Iterator[Option]:
    """One option, or two for a flag with a negative form."""
    value = None if parameter.is_flag else _value(parameter)
    for names in filter(None, (parameter.opts, parameter.secondary_opts)):
        yield Option(tuple(names), parameter.help or "", value, bool(parameter.multiple))


def _value(parameter: Any) -> Value:
    metavar = parameter.metavar or parameter.name.upper()
    words = tuple(word for word in metavar.split("|") if re.fullmatch("[a-z]+", word))
    if parameter.name == "by":
        words = tuple(by.value for by in By)
    if parameter.name == "state":
        words = STATES
    if parameter.name == "suite":
        words = tuple(SUITES)
    is_file = any(part in FILE_METAVARS for part in metavar.split("|"))
    return Value(metavar, words, is_file, OFFERED.get(parameter.name, ""))


def valued(root: Command) -> dict[str, list[Command] | None]:
    """Options that take a value, each with the commands in which it does; None if it does in all that have it."""
    takers: dict[str, list[Command]] = {}
    flags = set()
    for command in root.walk():
        for option in command.options:
            for name in option.names:
                if option.value is None:
                    flags.add(name)
                else:
                    takers.setdefault(name, []).append(command)
    return {name: commands if name in flags else None for name, commands in takers.items()}
