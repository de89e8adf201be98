"""The text of systemd's units for tenantd: a service and the socket it is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenantd.errors import InvalidRequest

SERVICE: Final = "tenantd.service"
SOCKET: Final = "tenantd.socket"
USER: Final = "tenantd"
"""The machine's service runs as this user, which `tenantctl service install` makes."""
CLIENTS: Final = "tenantd-clients"
"""Members may connect to the machine's service."""

_UNPRIVILEGED: Final = """\
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
UMask=0077
"""
"""Hardening that a user's service can have, too."""
_PRIVILEGED: Final = """\
# No PrivateUsers=: it would hide which user is at the other end of the socket.
CapabilityBoundingSet=
AmbientCapabilities=
KeyringMode=private
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a service is made of. `is_machines`: it is for the whole machine, not for one user."""

    is_machines: bool
    command: tuple[str, ...]
    config: Path
    socket: Path
    state_dir: Path
    socket_mode: str
    socket_group: str = ""
    admin_group: str = ""
    low_ports: tuple[str, ...] = ()
    """Addresses on TCP that only root may bind."""
    waits_for_network: bool = False
    devices: tuple[str, ...] = ()
    """GPUs, as DeviceAllow= names them."""
    groups: tuple[str, ...] = ()
    """Groups that may use them."""
    in_homes: tuple[Path, ...] = ()
    """What the service reads in folders of users, which are hidden from it otherwise."""
    written: tuple[Path, ...] = ()
    """Folders that it writes to, besides its state folder."""


def service_text(plan: Plan) -> str:
    """The service unit."""
    command = " ".join(map(_argument, (*plan.command, "--config", str(plan.config))))
    places = (f"TENANTD_SOCKET={plan.socket}", f"TENANTD_STATE_DIR={plan.state_dir}")
    parts = [
        _head(plan),
        "[Service]\n",
        "Type=notify\n",
        f"ExecStart={command}\n",
        "ExecReload=/bin/kill -HUP $MAINPID\n",
        f"Environment={' '.join(map(_quoted, places))}\n",
        "WatchdogSec=60\n",
        "# The daemon has its own timeouts for loading, and an upgrade of the ledger may take minutes.\n",
        "TimeoutStartSec=infinity\n",
        "TimeoutStopSec=60\n",
        "Restart=on-failure\n",
        "RestartSec=2\n",
        "# A mistake in the configuration, which a restart cannot fix.\n",
        "RestartPreventExitStatus=78\n",
        "# The daemon starts another engine or worker when the kernel kills one because memory is short.\n",
        "OOMPolicy=continue\n\n",
        _UNPRIVILEGED,
    ]
    if plan.is_machines:
        parts += [*_identity(plan), _PRIVILEGED, *_files(plan), *_devices(plan)]
    return "".join([*parts, "\n[Install]\n", f"WantedBy={'multi-user' if plan.is_machines else 'default'}.target\n"])


def socket_text(plan: Plan) -> str:
    """The socket unit. Everybody can enter the socket's folder if the service is for the whole machine."""
    owner = f"SocketUser={USER}\n" if plan.is_machines else ""
    owner += f"SocketGroup={plan.socket_group}\n" if plan.socket_group else ""
    streams = "".join(f"ListenStream={_specified(stream)}\n" for stream in (str(plan.socket), *plan.low_ports))
    return (
        "# Written by `tenantctl service install`.\n"
        "[Unit]\n"
        "Description=Socket of tenantd\n"
        "\n"
        "[Socket]\n"
        f"{streams}"
        f"DirectoryMode={'0755' if plan.is_machines else '0700'}\n"
        f"SocketMode={plan.socket_mode}\n"
        f"{owner}"
        "RemoveOnStop=yes\n"
        "\n"
        "[Install]\n"
        "WantedBy=sockets.target\n"
    )


def _head(plan: Plan) -> str:
    network = "Wants=network-online.target\nAfter=network-online.target\n" if plan.waits_for_network else ""
    return (
        "# Written by `tenantctl service install`. Change it with `systemctl edit`, which keeps changes apart.\n"
        "[Unit]\n"
        "Description=tenantd, one model for many tenants\n"
        f"Requires={SOCKET}\n"
        f"After={SOCKET}\n"
        f"{network}"
        "StartLimitIntervalSec=300\n"
        "StartLimitBurst=10\n"
        "\n"
    )


def _identity(plan: Plan) -> list[str]:
    lines = [f"User={USER}\n", f"Group={USER}\n"]
    if plan.groups:
        lines.append(f"SupplementaryGroups={' '.join(plan.groups)}\n")
    return [*lines, "StateDirectory=tenantd\n", "StateDirectoryMode=0700\n", "LimitMEMLOCK=infinity\n"]


def _files(plan: Plan) -> list[str]:
    lines = [f"ProtectHome={'tmpfs' if plan.in_homes else 'yes'}\n"]
    lines += [f"BindReadOnlyPaths={_quoted(_without_colons(path))}\n" for path in plan.in_homes]
    return lines + [f"ReadWritePaths={_quoted(f'-{path}')}\n" for path in plan.written]


def _devices(plan: Plan) -> list[str]:
    if not plan.devices:
        return ["MemoryDenyWriteExecute=yes\n", "PrivateDevices=yes\n"]
    return ["DevicePolicy=closed\n", *[f"DeviceAllow={device} rw\n" for device in plan.devices]]


def _argument(text: str) -> str:
    """A word of a command line, in which $ would begin a variable."""
    return _quoted(text.replace("$", "$$"))


def _quoted(text: str) -> str:
    text = _specified(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if set(text) & set(" '\"\\;") else text


def _specified(text: str) -> str:
    """Text in which % begins no specifier of systemd.unit(5). Raises InvalidRequest."""
    if not text.isprintable():
        raise InvalidRequest(f"a unit of systemd cannot hold the name {text!r}; rename it")
    return text.replace("%", "%%")


def _without_colons(path: Path) -> str:
    return str(path).replace(":", "\\:")
