"""Two temporary tenants who try, over the daemon's socket, what they must not be able to do."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tenantctl.bench.subjects import NO_LIMITS, wait_idle
from tenantctl.client import Client, url
from tenantctl.render import complain
from tenantd.domain import IsolationCheck, Verdict
from tenantd.errors import DaemonNotRunning, NotFound, TenantdError

if TYPE_CHECKING:
    import httpx

ANSWER_TIMEOUT_S: Final = 120.0
BUSY: Final = (408, 429, 503)
MOST_REASONS: Final = 3


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

    socket: Path
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
        """The daemon's answer, whatever it is. A header's name has "_" for "-". Raises DaemonNotRunning."""
        import httpx

        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            named["authorization"] = f"Bearer {key}"
        transport = httpx.HTTPTransport(uds=str(self.socket), verify=False, trust_env=False)
        try:
            with httpx.Client(
                transport=transport, base_url="http://tenantd", timeout=ANSWER_TIMEOUT_S, trust_env=False
            ) as client:
                return client.request(method, path, json=body, headers=named)
        except httpx.TransportError as e:
            raise DaemonNotRunning(f"the daemon at {self.socket} went away during the check: {e}") from e


@contextmanager
def visitors(client: Client) -> Iterator[Visitors]:
    """Create the tenants, unbilled and without limits; remove them at the end, if they are still there."""
    end = secrets.token_hex(4)
    made: list[str] = []
    keys: list[str] = []
    try:
        for letter in "ab":
            name = f"doctor-{letter}-{end}"
            answer = client.post(url("tenants"), {"name": name, "unbilled": True, "limits": NO_LIMITS})
            made.append(name)
            keys.append(answer["key"])
        looking = client.post(url("tenants", made[1], "keys"), {"scopes": ["read"]})
        revoked = client.post(url("tenants", made[1], "keys"), {})
        client.delete(url("keys", revoked["key"]["id"]))
        yield Visitors(
            socket=client.socket,
            a=made[0],
            b=made[1],
            a_key=keys[0],
            b_key=keys[1],
            b_key_id=looking["key"]["id"],
            looking=looking["secret"],
            revoked=revoked["secret"],
        )
    finally:
        _remove(client, made)


def _remove(client: Client, names: list[str]) -> None:
    try:
        wait_idle(client, names)
        for name in names:
            with suppress(NotFound):  # a part of the check has removed it
                client.delete(url("tenants", name))
    except TenantdError as e:
        complain(f"remove these temporary tenants yourself, with tenantctl tenant remove: {', '.join(names)}")
        raise e
