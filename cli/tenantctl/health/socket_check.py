"""The daemon's socket: its folder, its permissions, and whether a daemon is behind it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from tenantctl.health.scene import Scene, heard
from tenantctl.health.verdicts import Finding, Level, fail, from_message, ok, warn
from tenantctl.installed import start_command
from tenantd.errors import ConfigError

NAME: Final = "socket"
OTHER: Final = "choose another path (server.socket or TENANTD_SOCKET)"


def check(scene: Scene) -> list[Finding]:
    """Whether it can be found, is what it should be, and is left to the right users."""
    path, folder = scene.socket, scene.socket.parent
    from tenantd.api.listener import MAX_PATH_BYTES, check_socket_folder

    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        return [
            fail(NAME, f"{path} is longer than the {MAX_PATH_BYTES} bytes that Linux allows", "choose a shorter path")
        ]
    if not os.path.lexists(folder) and _can_enter(folder.parent):
        return [_absent(scene, f"{folder} is created at the first start", _nearest(folder))]
    if not _can_enter(folder):
        return [_closed(folder)]
    if not folder.is_dir():
        return [fail(NAME, f"{folder} is not a folder", OTHER)]
    findings = []
    with heard() as warnings:
        try:
            check_socket_folder(folder)
        except ConfigError as e:
            findings.append(from_message(NAME, Level.FAIL, e.message))
    findings += [from_message(NAME, Level.WARN, line, f"chmod o-w {folder}") for line in warnings]
    if not os.path.lexists(path):
        return findings or [_absent(scene, f"{path} is created when the daemon starts", folder)]
    return [*findings, *_of_file(scene, path, path.lstat())]


def _of_file(scene: Scene, path: Path, found: os.stat_result) -> list[Finding]:
    """What is wrong with the socket itself; or that nothing is."""
    if not stat.S_ISSOCK(found.st_mode):
        return [fail(NAME, f"{path} is not a socket", f"remove it, or {OTHER}")]
    if scene.is_running:
        return [_permissions(scene, found)]
    if not os.access(path, os.W_OK):
        return [fail(NAME, f"{path} belongs to user {found.st_uid}: permission denied", "join the group of the socket")]
    what = f"nothing listens on {path}; it was left by a daemon that did not stop cleanly"
    return [warn(NAME, what, f"{start_command(scene.socket)} replaces it")]


def _permissions(scene: Scene, found: os.stat_result) -> Finding:
    mode = stat.S_IMODE(found.st_mode)
    wanted = None if scene.config is None else int(scene.config.server.socket_mode, 8)
    if wanted is not None and mode != wanted:
        what = f"{scene.socket} has mode {mode:04o}, and server.socket_mode is {wanted:04o}"
        return warn(NAME, what, "restart the daemon to apply it")
    return ok(NAME, f"{scene.socket}, mode {mode:04o}")


def _absent(scene: Scene, what: str, folder: Path) -> Finding:
    """There is no socket yet; can one be made?"""
    if scene.uid == os.geteuid() and not os.access(folder, os.W_OK):
        return fail(NAME, f"{what}, but {folder} cannot be written", f"change its permissions, or {OTHER}")
    return ok(NAME, what)


def _closed(folder: Path) -> Finding:
    """Some folder on the way cannot be entered."""
    for each in reversed((folder, *folder.parents)):
        if not os.access(each, os.X_OK):
            break
    try:
        owner = f", which belongs to user {each.stat().st_uid} (mode {stat.S_IMODE(each.stat().st_mode):04o})"
    except OSError:
        owner = ""
    return fail(NAME, f"cannot enter {each}{owner}", "join the group of this folder, or ask its owner to open it")


def _can_enter(folder: Path) -> bool:
    return os.access(_nearest(folder), os.X_OK)


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    for each in (folder, *folder.parents):
        if os.path.lexists(each):
            return each
    return Path("/")
