"""A daemon whose events are written down."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from tests.support.daemon import Daemon

HERE = Path(__file__).parent


class HeardDaemon(Daemon):
    """What it announces is in `heard()`. With `bad_listeners` it has listeners that raise and block as well."""

    def __init__(self, folder: Path, *, bad_listeners: bool = False, **settings: dict[str, Any]) -> None:
        super().__init__(folder, **settings)
        self.events_file = folder / "events"
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
        self.environment["HEARD_FILE"] = str(self.events_file)
        if bad_listeners:
            self.environment["BAD_LISTENERS"] = "1"

    def heard(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Every event so far, or those of one kind, oldest first."""
        events = [msgspec.json.decode(line) for line in self.events_file.read_bytes().splitlines()]
        return [event for event in events if kind in (None, event["event"])]
