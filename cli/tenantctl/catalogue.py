"""Every command of `tenantctl`, and the module that has it, which is imported when the command is wanted."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, MutableMapping
from typing import Any, Final, NamedTuple

import typer
from typer.core import TyperCommand
from typer.main import get_command

from tenantctl.options import MonthCommand

DAEMON: Final = "The daemon"
TENANTS: Final = "Tenants"
REQUESTS: Final = "Requests"
BILLING: Final = "Usage and bills"
AUDIT: Final = "Audit"
SHELL: Final = "Shell"


class Entry(NamedTuple):
    """A command: a function `place` of a module of `tenantctl.commands`, or a group of commands, its `app`.

    `examples` names the text with its examples; that of a group is in the group.
    """

    panel: str
    place: str
    examples: str = "EXAMPLES"
    cls: type[TyperCommand] = TyperCommand


ENTRIES: Final = {
    "init": Entry(DAEMON, "init.init"),
    "serve": Entry(DAEMON, "serve.serve"),
    "service": Entry(DAEMON, "service_commands.app"),
    "demo": Entry(DAEMON, "demo.demo"),
    "status": Entry(DAEMON, "status.status"),
    "top": Entry(DAEMON, "top.top"),
    "web": Entry(DAEMON, "web.web"),
    "doctor": Entry(DAEMON, "doctor.doctor"),
    "model": Entry(DAEMON, "model_files.app"),
    "tenant": Entry(TENANTS, "tenant.app"),
    "key": Entry(TENANTS, "key.app"),
    "run": Entry(REQUESTS, "run.run"),
    "chat": Entry(REQUESTS, "chatting.chat"),
    "queue": Entry(REQUESTS, "own_commands.queue", "QUEUE_EXAMPLES"),
    "requests": Entry(REQUESTS, "request_commands.app"),
    "cancel": Entry(REQUESTS, "request_commands.cancel", "CANCEL_EXAMPLES"),
    "logs": Entry(REQUESTS, "log_commands.logs"),
    "anomalies": Entry(TENANTS, "anomaly.app"),
    "alerts": Entry(DAEMON, "alert_commands.app"),
    "stats": Entry(BILLING, "stats.stats", cls=MonthCommand),
    "compare": Entry(BILLING, "compare.compare"),
    "usage": Entry(BILLING, "usage.usage", "USAGE_EXAMPLES", MonthCommand),
    "limits": Entry(BILLING, "own_commands.limits", "LIMITS_EXAMPLES"),
    "budget": Entry(BILLING, "budget_commands.app"),
    "price": Entry(BILLING, "price.app"),
    "invoice": Entry(BILLING, "invoice.app"),
    "export": Entry(BILLING, "export.export", cls=MonthCommand),
    "ledger": Entry(BILLING, "ledger_file.app"),
    "audit": Entry(AUDIT, "audit_trail.app"),
    "bench": Entry(DAEMON, "bench.bench"),
    "completion": Entry(SHELL, "completion.completion"),
    "_tenants": Entry(SHELL, "completion.tenants"),
    "_keys": Entry(SHELL, "completion.keys"),
    "_requests": Entry(SHELL, "completion.requests"),
    "_recent": Entry(SHELL, "completion.recent"),
}
"""In the order a new user needs them. Those that begin with _ are hidden."""


class Commands(MutableMapping[str, Any]):
    """The commands by name. Each is made when it is first asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _made(name, ENTRIES[name])
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in ENTRIES

    def __iter__(self) -> Iterator[str]:
        return iter(ENTRIES)

    def __len__(self) -> int:
        return len(ENTRIES)

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]


def _made(name: str, entry: Entry) -> Any:
    """The command or group of an entry."""
    module_name, _, attribute = entry.place.partition(".")
    module = importlib.import_module(f"tenantctl.commands.{module_name}")
    found = getattr(module, attribute)
    if isinstance(found, typer.Typer):
        group = found
    else:
        group = typer.Typer()
        is_hidden = name.startswith("_")
        epilog = None if is_hidden else getattr(module, entry.examples)
        group.command(name, epilog=epilog, cls=entry.cls, hidden=is_hidden)(found)
    group._add_completion = False
    group.rich_markup_mode = "rich"
    for command in group.registered_commands:  # Typer keeps line breaks, whatever the terminal's width
        command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(command.callback) or "")
    made: Any = get_command(group)
    made.rich_help_panel = entry.panel
    return made
