"""What all checks of the doctor look at: the configuration, and what the running daemon says of itself. Read only."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tenantctl.client import Client, url
from tenantctl.installed import config_path, configured_state_dir, find_socket, means_the_machines
from tenantd.errors import ConfigError, DaemonNotRunning, TenantdError

if TYPE_CHECKING:
    from tenantd.config import Config

ANSWER_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True)
class Scene:
    """`config` is None if the file is missing (`has_file`) or wrong (`mistakes`); `warnings` are about a valid one.

    `status` is the answer of the running daemon. Without one, `is_running` says whether something listens all the same,
    and `trouble` why there is no answer.
    """

    config_path: Path
    has_file: bool
    config: Config | None
    mistakes: tuple[str, ...]
    warnings: tuple[str, ...]
    socket: Path
    state_dir: Path
    status: dict[str, Any] | None
    is_running: bool
    trouble: str

    @property
    def uid(self) -> int:
        """The user that the daemon runs as, as far as can be told: who owns its socket or its folder, or oneself."""
        for path in (self.socket, self.state_dir) if self.is_running else (self.state_dir,) * (os.geteuid() == 0):
            try:
                return path.lstat().st_uid
            except OSError:
                continue
        return os.geteuid()


def look_around(socket: Path | None) -> Scene:
    """Read the configuration and ask the daemon."""
    path = config_path()
    has_file = os.path.lexists(path)
    config, mistakes, warnings = _config(path) if has_file else (None, (), ())
    is_told = config is not None and not means_the_machines()  # where socket and state are, by the file
    where = socket or (config.socket if config and is_told else find_socket(None, quiet=True))
    status, is_running, trouble = _status(where)
    if status:
        state_dir = Path(status["state_dir"])
    else:
        state_dir = config.state_dir if config and is_told else configured_state_dir(quiet=True)
    return Scene(path, has_file, config, mistakes, warnings, where, state_dir, status, is_running, trouble)


def _config(path: Path) -> tuple[Config | None, tuple[str, ...], tuple[str, ...]]:
    from tenantd.config import load_config

    with heard() as warnings:
        try:
            config = load_config(path)
        except ConfigError as e:
            return None, tuple(line.removeprefix(f"{path}: ") for line in e.message.split("\n")), ()
    return config, (), tuple(line.removeprefix(f"{path}: ") for line in warnings)


def _status(socket: Path) -> tuple[dict[str, Any] | None, bool, str]:
    """What the daemon at this socket says, whether there is one, and why it says nothing."""
    try:
        with Client(socket, ANSWER_TIMEOUT_S) as client:
            return client.get(url("status")), True, ""
    except DaemonNotRunning as e:
        return None, False, e.message
    except TenantdError as e:
        return None, True, e.message


class _Keep(logging.Handler):
    """Keeps what one thread logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._thread = threading.get_ident()
        self.addFilter(lambda record: record.thread == self._thread)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def heard() -> Iterator[list[str]]:
    """Collects what the daemon's code warns of in this thread, instead of printing it."""
    handler, logger = _Keep(), logging.getLogger("tenantd")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
