"""The completion script for zsh."""

from __future__ import annotations

import re
from typing import Final

from tenantctl.shells.tree import LOOKUPS, Command, Option, Value

_HEAD: Final = """\
#compdef tenantctl
# zsh completion for tenantctl, written by `tenantctl completion zsh`
"""
_LOOKUP: Final = """
_tenantctl_@NAME@() {
  local -a found
  found=(${(f)"$(@LOOKUP@)"})
  compadd -a found
}
"""
_TAIL: Final = """
if [[ $funcstack[1] == _tenantctl ]]; then
  _tenantctl "$@"
else
  compdef _tenantctl tenantctl
fi
"""


def script(root: Command) -> str:
    """The whole file: a function for each command, the program's last."""
    offered = [Value("", offered=name) for name in LOOKUPS]
    lookups = [_LOOKUP.replace("@NAME@", f"offer_{v.offered}").replace("@LOOKUP@", v.lookup) for v in offered]
    return _HEAD + "".join(lookups) + "".join(_function(command) for command in reversed(list(root.walk()))) + _TAIL


def _name(command: Command) -> str:
    return "_tenantctl" + "".join(f"__{word}" for word in command.path)


def _function(command: Command) -> str:
    specs = [spec for option in command.options for spec in _option(option)]
    specs += [f"'{i}:{value.metavar}:{_action(value)}'" for i, value in enumerate(command.arguments, 1)]
    if not command.commands:
        return f"\n{_name(command)}() {{\n  _arguments -s -S{_joined(specs)}\n}}\n"
    children = "".join(f"\n        {_quoted(c.path[-1] + ':' + c.help)}" for c in command.commands)
    cases = "".join(f"\n        {c.path[-1]}) {_name(c)} ;;" for c in command.commands)
    specs += ["'1:command:->command'", "'*::argument:->argument'"]
    return f"""
{_name(command)}() {{
  local context state state_descr line
  typeset -A opt_args
  _arguments -C{_joined(specs)}
  case $state in
    command)
      local -a commands
      commands=({children}
      )
      _describe -t commands command commands
      ;;
    argument)
      case $line[1] in{cases}
      esac
      ;;
  esac
}}
"""


def _joined(specs: list[str]) -> str:
    return "".join(f" \\\n    {spec}" for spec in specs)


def _option(option: Option) -> list[str]:
    """A spec for each name. A repeatable option has a star; any other can be given once."""
    help = re.sub(r"([\[\]:\\])", r"\\\1", option.help)
    names = " ".join(option.names)
    before = "*" if option.repeats else f"({names})"
    if option.value is None:
        return [_quoted(f"{before}{name}[{help}]") for name in option.names]
    value = option.value
    return [_quoted(f"{before}{name}=[{help}]:{value.metavar}:{_action(value)}") for name in option.names]


def _action(value: Value) -> str:
    if value.offered:
        return f"_tenantctl_offer_{value.offered}"
    if value.is_file:
        return "_files"
    return f"({' '.join(value.words)})" if value.words else " "


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
