"""Users and groups of the machine that the service needs, made with the system's own tools."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import stat
import subprocess
from pathlib import Path

from tenantctl.render import message
from tenantctl.service.unit_text import USER
from tenantd.errors import TenantdError


def make_user(home: Path) -> None:
    """The user that the service runs as, unless it exists. Raises TenantdError."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        options = ("--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin")
        _run("useradd", *options, "--home-dir", str(home), USER)
        message(f"created the user {USER}, which the service runs as")


def make_group(name: str, meaning: str) -> None:
    """A group of the machine, unless it exists. Raises TenantdError."""
    try:
        grp.getgrnam(name)
    except KeyError:
        _run("groupadd", "--system", name)
        message(f"created the group {name}, whose members {meaning}")


def let_read(config: Path) -> None:
    """Let the service read its configuration, and nobody else: `alerts.url` may hold a token. Raises TenantdError if
    the file belongs to somebody else, who has not let the service read it."""
    found = config.stat()
    if found.st_uid == 0:
        shutil.chown(config, group=USER)
        config.chmod(0o640)
    elif not is_readable(found, grp.getgrnam(USER).gr_gid):
        raise TenantdError(
            f"{config} belongs to user {found.st_uid}, and the service cannot read it; run: chown root {config}"
        )


def is_readable(found: os.stat_result, gid: int) -> bool:
    """Whether members of a group can read the file of another user."""
    return bool(found.st_mode & (stat.S_IRGRP if found.st_gid == gid else stat.S_IROTH))


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise TenantdError(f"cannot run {command[0]}: it is not installed") from None
    if done.returncode:
        raise TenantdError(f"{command[0]}: {done.stderr.strip()}")
