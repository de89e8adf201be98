"""The daemon's Unix socket: bound by us, so that its permissions and its single owner are ours to decide.

uvicorn would chmod a socket it binds to 0666. A lock file beside the socket says who owns it: the lock goes with the
process, however it dies, so a socket file without a locked neighbour is stale and is replaced.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import socket
import stat
from pathlib import Path

from tenantd.errors import AlreadyRunning, ConfigError

log = logging.getLogger(__name__)

MAX_PATH_BYTES = 107
"""sun_path of unix(7) has 108 bytes with its closing NUL."""
BACKLOG = 4096
"""Clients that may have connected before we look; the kernel takes no more than net.core.somaxconn."""


class FileLock:
    """An exclusive lock that the kernel gives back when the process ends. Raises AlreadyRunning, ConfigError.

    The file stays after `release`: to unlink it would let two daemons lock two files of one name.
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
            raise AlreadyRunning(f"another tenantd (pid {pid or 'unknown'}) holds {owned}") from None
        try:
            os.ftruncate(self._fd, 0)
            os.write(self._fd, f"{os.getpid()}\n".encode())
        except OSError as e:  # a full disk, say: the lock holds all the same, only its message lacks the pid
            log.warning("%s: the pid was not written: %s", path, e.strerror)

    def release(self) -> None:
        """Give it back. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Listener:
    """A listening socket, its file and its lock."""

    def __init__(self, sock: socket.socket, path: Path, lock: FileLock) -> None:
        self.sock = sock
        self.path = path
        self._lock = lock
        self._inode = path.stat().st_ino
        self._closed = False

    def close(self) -> None:
        """Stop listening, remove the file if it is still ours, release the lock. Safe to call twice."""
        if self._closed:
            return  # by now the file may be another daemon's, even with the same inode number
        self._closed = True
        self.sock.close()
        try:
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        except FileNotFoundError:
            pass
        except OSError as e:
            log.warning("%s was not removed: %s", self.path, e.strerror)
        self._lock.release()


def make_private_folder(folder: Path, *, purpose: str) -> None:
    """Make `folder` with mode 0700 unless it is there. Raises ConfigError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"{folder}: cannot make the folder for {purpose}: {e.strerror}") from e


def check_state_folder(folder: Path) -> None:
    """Nobody else may replace what is in it: ConfigError. Nobody else should read it: a warning."""
    found = folder.stat()
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"{folder} holds the ledger and may be written by other users (mode {stat.S_IMODE(found.st_mode):04o}); "
            f"run: chmod go-w {folder}"
        )
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"{folder} holds the ledger and belongs to user {found.st_uid}; run: chown {os.geteuid()} {folder}"
        )
    if found.st_mode & (stat.S_IROTH | stat.S_IXOTH):
        log.warning("%s holds the ledger and is open to every user; run: chmod o-rwx %s", folder, folder)


def check_socket_folder(folder: Path) -> None:
    """Who may write to it can put a socket of his own in place of ours. Raises ConfigError when everybody may."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise ConfigError(
            f"server.socket: {folder} may be written by every user (mode {mode:04o}), who could put another socket "
            f"there; run: chmod o-w {folder}"
        )
    if mode & stat.S_IWOTH:
        log.warning("%s is everybody's: another user can take the socket's name while no daemon runs", folder)
    elif mode & stat.S_IWGRP:
        log.warning(
            "%s may be written by its group, who could put another socket there; run: chmod g-w %s", folder, folder
        )


def listen(path: Path, *, mode: int, group: str = "") -> Listener:
    """Bind and listen. `mode` are the permissions of the socket file.

    Raises AlreadyRunning when a daemon answers there, ConfigError when the path cannot be used.
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ConfigError(
            f"server.socket: {path} is longer than the {MAX_PATH_BYTES} bytes Linux allows for a socket; "
            "set a shorter one (TENANTD_SOCKET or server.socket)"
        )
    make_private_folder(path.parent, purpose="the socket")
    check_socket_folder(path.parent)
    lock = FileLock(path.with_name(path.name + ".lock"), owned=str(path))
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
    """Remove a socket file nobody listens on. Raises AlreadyRunning, or ConfigError for any other kind of file."""
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
    raise AlreadyRunning(f"another program listens on {path}")
