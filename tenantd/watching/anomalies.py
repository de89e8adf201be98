"""Watches each tenant's requests for an attempt to copy the model: a listener with a thread of its own.

It compares a tenant with its own past. What it knows survives a restart, in a file that it writes now and then.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from tenantd.events import Action, Administered, Admitted, Event, Settled, Sketched
from tenantd.text.sketches import KEY_BYTES
from tenantd.watching.habits import HABIT, Habits, Row, accept, add_answer, add_prompt, add_request
from tenantd.watching.scores import Anomaly, judge

log = logging.getLogger(__name__)

FORMAT: Final = 1
"""Of the file. It changes whenever sketches or habits mean something else."""
SAVE_MICROS: Final = 15 * 60 * 1_000_000
CLOSE_TIMEOUT_S: Final = 1.0
"""How long to wait for the last save."""
JUDGED_EVERY: Final = 8
"""Prompts of a tenant."""
QUIET_MICROS: Final = 24 * 3600 * 1_000_000
"""An anomaly of a tenant is not told again for as long as this."""

OnFound = Callable[[int, Anomaly], None]


class HabitFile:
    """The file of what is known, and the secret key of the sketches in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> tuple[bytes, Habits]:
        """The key and the habits; new ones if there is no file, or none of this format. Blocks."""
        habits = Habits()
        try:
            with open(self._path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                rows, key = file["habits"], file["key"].tobytes()
                if int(file["format"]) != FORMAT or rows.dtype != HABIT or len(key) != KEY_BYTES:
                    raise ValueError("it is of another version")
                habits.restore(rows)
                return key, habits
        except FileNotFoundError:
            pass
        except Exception as e:  # numpy and zipfile raise many kinds
            log.warning("the anomaly watch starts from scratch, because it cannot read %s: %s", self._path, e)
        return secrets.token_bytes(KEY_BYTES), Habits()

    def save(self, key: bytes, habits: Habits) -> None:
        """Replace the file. Blocks. Raises OSError."""
        new = self._path.with_name(self._path.name + ".new")
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                np.savez(file, format=np.array(FORMAT), key=np.frombuffer(key, np.uint8), habits=habits.rows())
            new.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()  # half a file takes room on a disk that may be full
            raise


class AnomalyWatch:
    """Hears events in one thread, and calls `on_found` in it with the id of a tenant and its anomaly."""

    def __init__(self, file: HabitFile, key: bytes, habits: Habits, on_found: OnFound) -> None:
        self._file = file
        self._key = key
        self.habits = habits
        self._on_found = on_found
        self._saved_micros: int | None = None

    def hear(self, event: Event) -> None:
        """Takes tens of microseconds."""
        if isinstance(event, Sketched):
            row = self.habits.of(event.tenant_id, event.at_micros)
            add_prompt(row, event.sketch)
            if int(row["recent_prompts"]) % JUDGED_EVERY == 0:
                self._judge(event.tenant_id, row, event.at_micros)
        elif isinstance(event, Admitted):
            if event.tenant_id is not None and event.choice == 0:
                is_probing = event.logprobs is not None or event.logit_biases > 0
                add_request(self.habits.of(event.tenant_id, event.at_micros), is_probing=is_probing)
        elif isinstance(event, Settled):
            if event.tenant_id is not None:
                row = self.habits.of(event.tenant_id, event.at_micros)
                add_answer(row, event.usage.prompt_tokens + event.usage.cached_tokens, event.usage.completion_tokens)
        elif isinstance(event, Administered) and event.tenant_id is not None:
            self._administered(event.action, event.tenant_id)
        self._save_sometimes(event.at_micros)

    def _judge(self, tenant_id: int, row: Row, at_micros: int) -> None:
        told_micros = int(row["told_micros"])
        if told_micros <= at_micros < told_micros + QUIET_MICROS:
            return
        if (anomaly := judge(row)) is not None:
            row["told_micros"] = at_micros
            self._on_found(tenant_id, anomaly)

    def _administered(self, action: Action, tenant_id: int) -> None:
        if action in (Action.TENANT_REMOVED, Action.TENANT_FORGOTTEN):
            self.habits.forget(tenant_id)
        elif action is Action.ANOMALIES_CLEARED and (row := self.habits.get(tenant_id)) is not None:
            accept(row)

    def _save_sometimes(self, at_micros: int) -> None:
        if self._saved_micros is None:
            self._saved_micros = at_micros
        if abs(at_micros - self._saved_micros) >= SAVE_MICROS:
            self._saved_micros = at_micros
            self.save()

    def save(self) -> None:
        """Write what is known to its file. A failure is logged: the watch goes on, and tries again later."""
        try:
            self._file.save(self._key, self.habits)
        except OSError as e:
            log.warning("cannot save what the anomaly watch knows: %s", e)

    def close(self, timeout_s: float) -> None:
        """Save once more, and wait for that for at most `timeout_s`, because the disk may hang. Call it once nothing
        is heard any more. Blocks."""
        saving = threading.Thread(target=self.save, name="habits", daemon=True)
        saving.start()
        saving.join(timeout_s)
        if saving.is_alive():
            log.warning("what the anomaly watch learned recently is not saved: the write takes too long")
