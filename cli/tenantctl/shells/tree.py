"""What the completion scripts offer: commands, options, and the values of each.

Values are read from metavars, as `tenantctl.options` describes, or are those of a known list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from tenantctl.bench.suites import SUITES
from tenantctl.commands.usage import By

NAMES: Final = "tenantctl _tenants 2>/dev/null"
FILE_METAVARS: Final = ("FILE", "GGUF", "DIR")
HELP: Final = "Show this message and exit."


@dataclass(frozen=True)
class Value:
    """What an option or argument takes. Without words, files or names there is nothing to offer."""

    metavar: str
    words: tuple[str, ...] = ()
    is_file: bool = False
    is_tenant: bool = False


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
    root = _command(program, ())
    _check_options_are_alike(root)
    return root


def _command(command: Any, path: tuple[str, ...]) -> Command:
    children = getattr(command, "commands", {})
    names = command.list_commands(None) if children else []
    parameters = [p for p in command.params if not getattr(p, "hidden", False)]
    options = [option for p in parameters if p.param_type_name == "option" for option in _options(p)]
    return Command(
        path,
        (command.help or "").strip().split("\n")[0].rstrip("."),
        [*options, Option(("--help", "-h"), HELP, None, False)],
        [_value(p) for p in parameters if p.param_type_name == "argument"],
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
    if parameter.name == "suite":
        words = tuple(SUITES)
    is_file = any(part in FILE_METAVARS for part in metavar.split("|"))
    return Value(metavar, words, is_file, parameter.name == "tenant")


def _check_options_are_alike(root: Command) -> None:
    """Checks that an option takes a value in every command or in none, because bash must know which words are values
    before it knows the command."""
    seen: dict[str, bool] = {}
    for command in root.walk():
        for option in command.options:
            for name in option.names:
                if seen.setdefault(name, option.value is not None) != (option.value is not None):
                    raise AssertionError(f"{name} takes {option.value} here and something else elsewhere")
