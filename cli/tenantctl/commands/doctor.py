"""`tenantctl doctor`: check this installation, and what the daemon promises on this machine."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenantctl.options import Globals, Json, examples, require_own_machine
from tenantctl.render import message, print_json, print_report
from tenantctl.times import duration_s
from tenantctl.units import plural

if TYPE_CHECKING:
    from tenantctl.health.verdicts import Finding

EXAMPLES = examples(
    "tenantctl doctor",
    "tenantctl doctor --json | jq '.findings[] | select(.level != \"ok\")'",
    "tenantctl doctor --isolation",
    "tenantctl doctor --isolation --quick",
    "tenantctl doctor --isolation --if-older 7d    [dim]# for a timer[/]",
)


def _age(text: str | None) -> str | None:
    if text is not None:
        duration_s(text)
    return text


def doctor(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Configuration file. Default: TENANTD_CONFIG or ~/.config/tenantd/config.toml."
        ),
    ] = None,
    isolation: Annotated[bool, typer.Option("--isolation", help="Check the isolation between tenants.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Run a shorter check; about a minute on an idle machine.")
    ] = False,
    if_older: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Do nothing if the last check passed and is newer than this, for example 7d.",
            callback=_age,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Check this installation: configuration, daemon, socket, llama.cpp, model, memory, disk, ledger, clock, adapters.

    Changes nothing, and works whether the daemon runs or not. Each problem comes with its cure. Exits with 1 if
    something does not work, otherwise with 0, even if there are warnings.

    With --isolation, checks that the running daemon isolates tenants from one another. Takes up to five minutes, or
    about a minute with --quick if the machine is not busy. Running requests get ten seconds to finish and are then
    paused; new ones wait. Creates two temporary tenants and removes them afterwards; their requests stay in the ledger
    and appear on no invoice. Exits with 0 if everything held, 1 if a check failed, and 75 if a check was inconclusive
    or could not run.
    """
    if isolation:
        from tenantctl.outside.whole_check import check_isolation

        raise typer.Exit(check_isolation(ctx, quick=quick, if_older=if_older, json=json))
    if quick or if_older is not None:
        raise typer.BadParameter("add --isolation; this option applies only to that check", param_hint="--isolation")
    require_own_machine(ctx, instead="or add --isolation")
    if config is not None:
        os.environ["TENANTD_CONFIG"] = str(config)
    raise typer.Exit(_check(ctx.ensure_object(Globals).socket, as_json=json))


def _check(socket: Path | None, *, as_json: bool) -> int:
    """Run all checks and print what they find, each as soon as those before it are done. Returns the exit code."""
    from tenantctl.health.all_checks import run_all
    from tenantctl.health.scene import look_around
    from tenantctl.health.verdicts import Level, worst

    found: list[Finding] = []
    for _, findings in run_all(look_around(socket)):
        found += findings
        if not as_json:
            for one in findings:
                print_report(one.level.value, one.check, one.what, one.cure)
    result = worst(found)
    if as_json:
        keys = ("check", "level", "what", "cure")
        listed = [
            dict(zip(keys, (one.check, one.level.value, one.what, one.cure or None), strict=True)) for one in found
        ]
        print_json({"result": result.value, "findings": listed})
    else:
        count = Counter(one.level for one in found)
        message(f"{count[Level.OK]} ok, {plural(count[Level.WARN], 'warning')}, {plural(count[Level.FAIL], 'failure')}")
    return 1 if result is Level.FAIL else 0
