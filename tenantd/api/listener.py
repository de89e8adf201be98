"""The daemon's Unix socket. We bind it ourselves, to control its permissions and to make sure that one daemon owns it.

uvicorn would chmod a socket that it binds to 0666. A lock on a file beside the socket shows that the socket is in use.
The lock ends with the process, however it dies, so a socket file whose lock is free is stale and is replaced.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import socket
import stat
from pathlib import Path
from typing import Final, Protocol

from tenantd.errors import AlreadyRunning, ConfigError

log = logging.getLogger(__name__)

MAX_PATH_BYTES = 107
"""sun_path of unix(7) has 108 bytes, including the terminating NUL."""
BACKLOG = 4096
"""Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn."""

HOW_TO_STOP: Final = (
    "`tenantctl status` shows it; stop it first: Ctrl-C where it runs, or systemctl stop tenantd (with --user if the "
    "service is your own)"
)


class FileLock:
    """An exclusive lock that the kernel releases when the process ends. Raises AlreadyRunning, ConfigError.

    The file stays after `release`: if it were unlinked, two daemons could lock two files of the same name.
    """

    def __init__(self, path: Path, *, owned: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as e:
            raise ConfigError(f"cannot lock {owned}: {path}: {e.strerror}") from e
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(self._fd, 32).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise AlreadyRunning(f"a daemon (pid {pid or 'unknown'}) is using {owned}; {HOW_TO_STOP}") from None
        try:
            os.ftruncate(self._fd, 0)
            os.write(self._fd, f"{os.getpid()}\n".encode())
        except OSError as e:  # for example a full disk: the lock works, only the message above lacks the pid
            log.warning("%s: cannot write the pid: %s", path, e.strerror)

    def release(self) -> None:
        """Release the lock. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Listening(Protocol):
    """A socket that listens, and how to end that."""

    sock: socket.socket

    def close(self) -> None:
        """Stop listening. Safe to call twice."""


class Listener:
    """A listening socket, its file and its lock."""

    def __init__(self, sock: socket.socket, path: Path, lock: FileLock) -> None:
        self.sock = sock
        self.path = path
        self._lock = lock
        self._inode = path.stat().st_ino
        self._closed = False

    def close(self) -> None:
        """Stop listening, remove the socket file if it is still ours, release the lock. Safe to call twice."""
        if self._closed:
            return  # the file may now belong to another daemon, even with the same inode number
        self._closed = True
        self.sock.close()
        try:
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        except FileNotFoundError:
            pass
        except OSError as e:
            log.warning("cannot remove %s: %s", self.path, e.strerror)
        self._lock.release()


def make_private_folder(folder: Path, *, purpose: str) -> None:
    """Create `folder` with mode 0700 unless it exists. Raises ConfigError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        variable = "TENANTD_STATE_DIR" if purpose == "the ledger" else "TENANTD_SOCKET"
        raise ConfigError(f"cannot create {folder} for {purpose}: {e.strerror} (set {variable})") from e


def check_state_folder(folder: Path, uid: int | None = None) -> None:
    """Raises ConfigError if users other than this one (by default one's own) may write to the state folder; warns if
    they may read it."""
    uid = os.geteuid() if uid is None else uid
    found = folder.stat()
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"{folder} holds the ledger, but other users may write to it (mode {stat.S_IMODE(found.st_mode):04o}); "
            f"run: chmod go-w {folder}"
        )
    if found.st_uid not in (0, uid):
        raise ConfigError(f"{folder} holds the ledger, but belongs to user {found.st_uid}; run: chown {uid} {folder}")
    if found.st_mode & (stat.S_IROTH | stat.S_IXOTH):
        log.warning("%s holds the ledger, but every user may enter it; run: chmod o-rwx %s", folder, folder)


def check_socket_folder(folder: Path) -> None:
    """Raises ConfigError if everybody may write to the socket's folder: they could replace the socket."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise ConfigError(
            f"server.socket: every user may write to {folder} (mode {mode:04o}) and could replace the socket; "
            f"run: chmod o-w {folder}"
        )
    if mode & stat.S_IWOTH:
        log.warning("every user may write to %s and could take the socket's name while no daemon runs", folder)
    elif mode & stat.S_IWGRP:
        log.warning("the group of %s may write to it and could replace the socket; run: chmod g-w %s", folder, folder)


def listen(path: Path, *, mode: int, group: str = "") -> Listener:
    """Bind and listen. `mode` is the permissions of the socket file.

    Raises AlreadyRunning if a daemon already listens there, ConfigError if the path cannot be used.
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ConfigError(
            f"server.socket: {path} is longer than the {MAX_PATH_BYTES} bytes that Linux allows for a socket; "
            "set a shorter path (TENANTD_SOCKET or server.socket)"
        )
    make_private_folder(path.parent, purpose="the socket")
    check_socket_folder(path.parent)
    lock = FileLock(path.with_name(path.name + ".lock"), owned=f"socket {path}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear_the_way(path)
        sock.bind(os.fspath(path))
        # Nobody can connect before listen(), so there is no moment with other permissions.
        os.chmod(path, mode)
        if group:
            shutil.chown(path, group=group)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        return Listener(sock, path, lock)
    except (OSError, LookupError) as e:
        sock.close()
        lock.release()
        raise ConfigError(f"server.socket: cannot listen on {path}: {e}") from e
    except BaseException:
        sock.close()
        lock.release()
        raise


def _clear_the_way(path: Path) -> None:
    """Remove a stale socket file. Raises AlreadyRunning if it is in use, ConfigError if it is not a socket."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"server.socket: {path} exists and is not a socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            log.info("replacing the stale socket %s", path)
            path.unlink()
            return
    raise AlreadyRunning(f"another program is already listening on {path}; stop it, or set another server.socket")
