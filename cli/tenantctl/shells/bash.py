"""The completion script for bash 4.4 and later."""

from __future__ import annotations

from typing import Final

from tenantctl.shells.tree import Command, Value, valued

_TEMPLATE: Final = """\
# bash completion for tenantctl, written by `tenantctl completion bash`

_tenantctl() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    # bash splits --option=value into three words
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi

    local command= count=0 skip= word i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word == = ]]; then
            skip=1
        elif [[ $skip ]]; then
            skip=
        else
            case "$command $word" in
@VALUED@) [[ ${COMP_WORDS[i + 1]} == = ]] || skip=1 ;;
                *" -"*) ;;
                *)
                    case "$command $word" in
@COMMANDS@) command="$command $word" ;;
                        *) ((count++)) ;;
                    esac
                    ;;
            esac
        fi
    done

    case "$command $prev" in
@VALUES@
    esac
    if [[ $cur == -* ]]; then
        case $command in
@OPTIONS@
        esac
        return
    fi
    case "$command $count" in
@ARGUMENTS@
    esac
}

_tenantctl_words() {
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$2")
}

_tenantctl_files() {
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "$1")
}

complete -F _tenantctl tenantctl
"""


def script(root: Command) -> str:
    """The whole file."""
    return (
        _TEMPLATE.replace("@VALUED@", " " * 16 + _valued(root))
        .replace("@COMMANDS@", " " * 24 + " | ".join(_quoted(c) for c in root.walk() if c.path))
        .replace("@VALUES@", "\n".join(_values(root)))
        .replace("@OPTIONS@", "\n".join(_options(root)))
        .replace("@ARGUMENTS@", "\n".join(_arguments(root)))
    )


def _quoted(command: Command) -> str:
    return f'"{_key(command)}"'


def _key(command: Command) -> str:
    """How the variable `command` spells it: " tenant add"."""
    return "".join(f" {word}" for word in command.path)


def _valued(root: Command) -> str:
    """A pattern that matches the options that take a value, each after its command."""
    patterns = [
        pattern
        for name, commands in valued(root).items()
        for pattern in ([f'*" {name}"'] if commands is None else [f'"{_key(c)} {name}"' for c in commands])
    ]
    return " | ".join(patterns)


def _values(root: Command) -> list[str]:
    """Cases for the value of an option; of one command if other commands take other values for it."""
    actions: dict[str, dict[str, str]] = {}  # by name of the option, by command
    for command in root.walk():
        for option in command.options:
            for name in option.names if option.value else ():
                actions.setdefault(name, {})[_key(command)] = _action(option.value)  # type: ignore[arg-type]
    by_action: dict[str, list[str]] = {}
    by_command = valued(root)
    for name, each in actions.items():
        is_same = len(set(each.values())) == 1 and by_command[name] is None
        for key, action in each.items():
            pattern = f'*" {name}"' if is_same else f'"{key} {name}"'
            patterns = by_action.setdefault(action, [])
            patterns += [pattern] if pattern not in patterns else []
    return [f"        {' | '.join(patterns)}) {action}return ;;" for action, patterns in by_action.items()]


def _action(value: Value) -> str:
    if value.offered:
        return f'_tenantctl_words "$({value.lookup})" "$cur"; '
    if value.is_file:
        return '_tenantctl_files "$cur"; '
    return f'_tenantctl_words "{" ".join(value.words)}" "$cur"; ' if value.words else ""


def _options(root: Command) -> list[str]:
    return [
        f'            "{_key(c)}") _tenantctl_words "{" ".join(n for o in c.options for n in o.names)}" "$cur" ;;'
        for c in root.walk()
    ]


def _arguments(root: Command) -> list[str]:
    """Cases for subcommands and for arguments."""
    lines = []
    for command in root.walk():
        if command.commands:
            names = " ".join(child.path[-1] for child in command.commands)
            lines.append(f'        "{_key(command)} 0") _tenantctl_words "{names}" "$cur" ;;')
        for i, value in enumerate(command.arguments):
            if action := _action(value):
                lines.append(f'        "{_key(command)} {i}") {action.removesuffix("; ")} ;;')
    return lines
