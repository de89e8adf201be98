"""Two temporary tenants who try, over the daemon's socket, what they must not be able to do."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tenantctl.bench.subjects import NO_LIMITS, wait_idle
from tenantctl.client import Client, url
from tenantctl.places import Place
from tenantctl.render import complain
from tenantd.domain import IsolationCheck, Verdict
from tenantd.errors import Conflict, DaemonNotRunning, EngineUnavailable, NotFound, TenantdError

if TYPE_CHECKING:
    import httpx

ANSWER_TIMEOUT_S: Final = 300.0
BUSY: Final = (408, 429, 503)
MOST_REASONS: Final = 3
END_DIGITS: Final = 8
NAME: Final = re.compile(f"doctor-[ab]-[0-9a-f]{{{END_DIGITS}}}")
KEY_LABEL: Final = "doctor --isolation"
KEYS_LAST_S: Final = 3600
"""A check takes a few minutes."""


@dataclass
class Tally:
    """What one check has tried so far."""

    name: IsolationCheck
    tried: int = 0
    failures: list[str] = field(default_factory=list)
    obstacles: list[str] = field(default_factory=list)

    def result(self) -> dict[str, Any]:
        """As the daemon takes it."""
        verdict = Verdict.HELD
        if self.failures or self.obstacles or not self.tried:
            verdict = Verdict.FAILED if self.failures else Verdict.INCONCLUSIVE
        reasons = [*self.failures, *self.obstacles]
        detail = "; ".join(reasons[:MOST_REASONS]) + (
            f"; and {more} more" if (more := len(reasons) - MOST_REASONS) > 0 else ""
        )
        return {"name": self.name.value, "result": verdict.value, "n": self.tried, "detail": detail[:1000]}


@dataclass(frozen=True)
class Visitors:
    """A is who is attacked, B who attacks: names and keys. `looking` is a key of B that may only read, `revoked` one
    that was revoked."""

    place: Place
    a: str
    b: str
    a_key: str
    b_key: str
    b_key_id: str
    looking: str
    revoked: str

    def call(
        self, method: str, path: str, *, key: str | None = None, body: Any = None, **headers: str
    ) -> httpx.Response:
        """The daemon's answer, whatever it is. A header's name has "_" for "-". Raises DaemonNotRunning,
        EngineUnavailable."""
        import httpx

        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            named["authorization"] = f"Bearer {key}"
        try:
            with self.place.http(ANSWER_TIMEOUT_S, "") as client:
                return client.request(method, path, json=body, headers=named)
        except httpx.TimeoutException as e:
            raise EngineUnavailable(
                f"the daemon did not answer within {ANSWER_TIMEOUT_S:.0f} s; this machine is too busy to be checked"
            ) from e
        except httpx.TransportError as e:
            raise DaemonNotRunning(f"the daemon at {self.place} went away during the check: {e}") from e


@contextmanager
def visitors(client: Client) -> Iterator[Visitors]:
    """Create the tenants, unbilled and without limits; remove them at the end, if they are still there.

    A check that was killed left its own behind, and the next one removes them. Until then their keys end by themselves.
    """
    remove_leftovers(client, time.time())
    end = secrets.token_hex(END_DIGITS // 2)
    made: list[str] = []
    keys: list[dict[str, Any]] = []
    try:
        for letter in "ab":
            name = f"doctor-{letter}-{end}"
            made.append(name)  # first, because a signal may end this at any moment
            try:
                client.post(url("tenants"), {"name": name, "unbilled": True, "limits": NO_LIMITS})
            except TenantdError:
                made.pop()
                raise
            (first,) = client.get(url("tenants", name, "keys"))["keys"]  # it has no end
            keys.append(_key(client, name))
            client.delete(url("keys", first["id"]))
        looking = _key(client, made[1], scopes=["read"])
        revoked = _key(client, made[1])
        client.delete(url("keys", revoked["key"]["id"]))
        yield Visitors(
            place=client.place,
            a=made[0],
            b=made[1],
            a_key=keys[0]["secret"],
            b_key=keys[1]["secret"],
            b_key_id=looking["key"]["id"],
            looking=looking["secret"],
            revoked=revoked["secret"],
        )
    finally:
        _remove(client, made)


def _key(client: Client, name: str, **more: Any) -> dict[str, Any]:
    body = {"label": KEY_LABEL, "expires_in_s": KEYS_LAST_S, **more}
    made: dict[str, Any] = client.post(url("tenants", name, "keys"), body)
    return made


def remove_leftovers(client: Client, now_s: float) -> None:
    """Remove the tenants of checks that were killed.

    They are told from users' tenants by name, by being unbilled and without users, and by the label of all keys that
    still work. A younger tenant may be that of a check in progress.
    """
    for tenant in client.get(url("tenants"))["tenants"]:
        name, age_s = tenant["name"], now_s - tenant["created_micros"] / 1e6
        if not NAME.fullmatch(name) or not tenant["unbilled"] or tenant["uids"] or age_s < KEYS_LAST_S:
            continue
        with suppress(NotFound, Conflict):  # another check removes it, or its requests still run
            keys = client.get(url("tenants", name, "keys"))["keys"]
            is_own = any(key["label"] == KEY_LABEL for key in keys)
            if is_own and all(key["label"] == KEY_LABEL or key["revoked_micros"] is not None for key in keys):
                client.delete(url("tenants", name))


def _remove(client: Client, names: list[str]) -> None:
    try:
        wait_idle(client, names)
        for name in names:
            with suppress(NotFound):  # a part of the check has removed it
                client.delete(url("tenants", name))
    except TenantdError as e:
        complain(f"remove these temporary tenants yourself, with tenantctl tenant remove: {', '.join(names)}")
        raise e
