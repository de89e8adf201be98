"""`tenantctl service`: tenantd as a service of systemd."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from tenantctl.installed import is_users_installed
from tenantctl.options import Json, examples
from tenantctl.render import message, print_fields, print_json
from tenantd.errors import NotFound

app = typer.Typer(name="service", help="Run tenantd as a systemd service.", no_args_is_help=True)

INACTIVE: Final = 3
"""What systemctl exits with if a unit is not active."""
System = Annotated[
    bool | None,
    typer.Option(
        "--system/--user", help="The service of the whole machine, or your own. Default: your own; for root, --system."
    ),
]
Which = Annotated[
    bool | None,
    typer.Option(
        "--system/--user", help="The service of the whole machine, or your own. Default: your own, if installed."
    ),
]


@app.command(
    epilog=examples(
        "tenantctl service install --dry-run",
        "tenantctl service install              [dim]# your own[/]",
        "tenantctl init --config /etc/tenantd/config.toml --model /srv/gemma.gguf",
        "tenantctl service install --system     [dim]# for everybody on this machine, as root[/]",
    )
)
def install(
    system: System = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Configuration file. Default: yours; with --system, /etc/tenantd/config.toml."
        ),
    ] = None,
    gpu: Annotated[
        bool | None, typer.Option("--gpu/--no-gpu", help="Let it use GPUs. Default: if there are any now.")
    ] = None,
    new_ledger: Annotated[
        bool, typer.Option("--new-ledger", help="Start with an empty ledger, even if you already have one.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the units and change nothing.")] = False,
) -> None:
    """Install tenantd as a service and start it.

    systemd then starts it at boot (your own service: when you log in), restarts it if it fails, and passes it its
    socket. The service of the machine runs as the user tenantd, keeps its ledger in /var/lib/tenantd, and sees no files
    in home folders except those that the configuration names. Run this again after you change those or the addresses
    it listens on.
    """
    from tenantctl.service import setting_up
    from tenantctl.service.planning import make_plan

    is_machines = os.geteuid() == 0 if system is None else system
    plan = make_plan(is_machines=is_machines, config=config, with_gpu=gpu)
    if dry_run:
        print("\n".join(f"# {path}\n{text}" for path, text in setting_up.unit_files(plan).items()), end="")
        return
    setting_up.install(plan, with_new_ledger=new_ledger)
    if is_machines:
        for path in plan.in_homes:
            if (owner := path.stat().st_uid) != 0:
                message(f"warning: {path} belongs to user {owner}, who can control the service by changing it")
        message(f"to let somebody connect: usermod --append --groups {plan.socket_group} NAME")
        if plan.admin_group not in ("", plan.socket_group):
            message(f"and administer: usermod --append --groups {plan.socket_group},{plan.admin_group} NAME")
    else:
        message("to keep it running after you log out: loginctl enable-linger")
    if setting_up.is_systemd_running():
        message("next: tenantctl service status")


@app.command(epilog=examples("tenantctl service uninstall"))
def uninstall(system: Which = None) -> None:
    """Stop the service and remove its units.

    The configuration, the ledger and the service's user stay.
    """
    from tenantctl.service import setting_up

    setting_up.uninstall(is_machines=_is_machines(system))
    message("removed the service; its configuration and ledger stay")


@app.command(epilog=examples("tenantctl service status", "tenantctl service status --json"))
def status(system: Which = None, json: Json = False) -> None:
    """Show whether the service runs.

    Exits with 3 if it does not.
    """
    from tenantctl.service.setting_up import state, unit_folder
    from tenantctl.service.unit_text import SERVICE

    is_machines = _is_machines(system)
    found = state(is_machines=is_machines)
    is_active = found["ActiveState"] in ("active", "reloading")
    fields: dict[str, object] = {
        "service": "of the machine" if is_machines else "your own",
        "state": f"{found['ActiveState']} ({found['SubState']})",
        "status": found["StatusText"] if is_active or found["ActiveState"] == "activating" else None,
        "result": found["Result"],
        "pid": int(found["MainPID"] or 0) or None,
        "restarts": int(found["NRestarts"] or 0),
        "at start": found["UnitFileState"],
        "unit": str(unit_folder(is_machines=is_machines) / SERVICE),
    }
    if json:
        print_json({name.replace(" ", "_"): value for name, value in fields.items()})
    else:
        print_fields(fields)
        if not is_active:
            option = "" if is_machines else "--user "
            message(f"start it with: systemctl {option}start tenantd; its log: tenantctl service logs")
    if not is_active:
        raise typer.Exit(INACTIVE)


@app.command(epilog=examples("tenantctl service logs", "tenantctl service logs --follow --since today"))
def logs(
    system: Which = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep showing new lines until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", metavar="N", min=0, help="Show the last N lines.")] = 100,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Show only lines since TIME, such as today or -1h.")
    ] = None,
) -> None:
    """Show the service's log, from systemd's journal."""
    from tenantctl.service.setting_up import is_installed, is_systemd_running
    from tenantctl.service.unit_text import SERVICE

    is_machines = _is_machines(system)
    if not is_installed(is_machines=is_machines):  # the journal may still have lines of one that was
        message("tenantd is not installed as a service; `tenantctl serve` logs to its terminal")
    elif not is_systemd_running():
        message("systemd is not running here, so neither is the service; `tenantctl serve` logs to its terminal")
    # not --user, which looks only into journals of the user's own, and often there are none
    unit = f"--unit={SERVICE}" if is_machines else f"--user-unit={SERVICE}"
    command = ["journalctl", unit, f"--lines={lines}"]
    command += ["--follow"] if follow else []
    command += [] if since is None else [f"--since={since}"]
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        raise NotFound("journalctl not found: this needs systemd") from None


def _is_machines(system: bool | None) -> bool:
    """Whose service is meant: without an option, the user's own if it is installed."""
    return not is_users_installed() if system is None else system
