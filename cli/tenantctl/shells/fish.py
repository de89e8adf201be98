"""The completion script for fish 3 and later."""

from __future__ import annotations

from typing import Final

from tenantctl.shells.tree import Command, Option, Value, valued

_HEAD: Final = """\
# fish completion for tenantctl, written by `tenantctl completion fish`

# The words typed so far without options and their values: the command, then its arguments.
function __tenantctl_words
    set -l skip 0
    set -l path
    for word in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
            continue
        end
        switch "$path $word"
            case @VALUED@
                set skip 1
            case '* -*'
            case '*'
                set path $path $word
                echo $word
        end
    end
end

# __tenantctl_in COMMAND…: whether this command is being typed.
function __tenantctl_in
    set -l words (__tenantctl_words)
    set -l n (count $argv)
    test $n = 0; and return
    test (count $words) -ge $n; and test "$words[1..$n]" = "$argv"
end

# __tenantctl_at N COMMAND…: whether argument N (from 0) of this command comes next.
function __tenantctl_at
    __tenantctl_in $argv[2..-1]
    and test (count (__tenantctl_words)) = (math (count $argv) - 1 + $argv[1])
end

complete -c tenantctl -f
"""


def script(root: Command) -> str:
    """The whole file: one line for each completion."""
    patterns = [pattern for name, commands in valued(root).items() for pattern in _patterns(name, commands)]
    lines = [line for command in root.walk() for line in _lines(command)]
    return _HEAD.replace("@VALUED@", " ".join(patterns)) + "\n".join(lines) + "\n"


def _patterns(name: str, commands: list[Command] | None) -> list[str]:
    """What an option that takes a value looks like after the words before it."""
    if commands is None:
        return [f"'* {name}'"]
    return [f"'{' '.join(c.path)}{more} {name}'" for c in commands for more in ("", " *")]


def _lines(command: Command) -> list[str]:
    path = " ".join(command.path)
    lines = []
    for child in command.commands:
        lines.append(f"{_at(0, path)} -a {child.path[-1]} -d {_quoted(child.help)}")
    for i, value in enumerate(command.arguments):
        if action := _action(value):
            lines.append(f"{_at(i, path)} {action}")
    inside = f"__tenantctl_in {path}" if path else "__tenantctl_at 0"
    lines += [_option(option, inside) for option in command.options]
    return lines


def _at(number: int, path: str) -> str:
    return f"complete -c tenantctl -n {_quoted(f'__tenantctl_at {number} {path}'.strip())}"


def _option(option: Option, condition: str) -> str:
    names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names)
    line = f"complete -c tenantctl -n {_quoted(condition)} {names}"
    if option.value is not None:
        line += " " + (_action(option.value) or "-x").replace("-a", "-x -a", 1)
    return f"{line} -d {_quoted(option.help)}"


def _action(value: Value) -> str:
    if value.offered:
        return f"-a '({value.lookup})'"
    if value.is_file:
        return "-r -F"
    return f"-a {_quoted(' '.join(value.words))}" if value.words else ""


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
