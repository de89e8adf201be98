"""The routes of the check of isolation, their bodies and answers."""

from __future__ import annotations

from typing import Final, Literal, TypedDict

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from tenantd.api.body import Body, parse, read_body
from tenantd.api.identity import actor_of, require_live_key
from tenantd.api.operations import Operation
from tenantd.api.presence import while_connected
from tenantd.api.replies import reply
from tenantd.domain import IsolationCheck, Verdict
from tenantd.serving.isolation import TURN_S, IsolationReport
from tenantd.serving.service import Service
from tenantd.wire.messages import CheckResult

PATH: Final = "/admin/v1/isolation"
MOST_TURN_CHARACTERS: Final = 64
MOST_BYTES: Final = 16_384


class OutsideResult(Body):
    """What a client found over the socket."""

    name: Literal[IsolationCheck.CANARIES, IsolationCheck.IDENTITY]
    result: Verdict
    n: int = Field(ge=0, le=1_000_000)
    detail: str = Field("", max_length=1000)


class IsolationRequest(Body):
    """POST /admin/v1/isolation. `outside` are checks that the client has made itself, which complete the report, in
    its `turn` if it took one."""

    quick: bool = False
    turn: str = Field("", max_length=MOST_TURN_CHARACTERS)
    outside: list[OutsideResult] = Field(default_factory=list, max_length=len(IsolationCheck))

    def results(self) -> list[CheckResult]:
        """Those of the client."""
        return [CheckResult(name=r.name, result=r.result, n=r.n, detail=r.detail) for r in self.outside]


class TurnRequest(Body):
    """POST /admin/v1/isolation/turn. Without `turn`: take one. With it: renew it, or `end` it."""

    turn: str = Field("", max_length=MOST_TURN_CHARACTERS)
    end: bool = False


class Turn(TypedDict):
    """The turn to check isolation, which nobody else gets within `expires_in_s` unless it is ended."""

    turn: str
    expires_in_s: int


class LastIsolation(TypedDict):
    """The last report, null before the first."""

    last: IsolationReport | None


def examination_operations(service: Service) -> list[Operation]:
    """Show the last check of isolation, and make one."""

    async def show_isolation() -> Response:
        """Show the last check of isolation."""
        return reply({"last": service.isolation.last})

    async def check_isolation(request: Request) -> Response:
        """Check the isolation between tenants, for up to some minutes; requests wait. Ends when its client leaves."""
        raw = await read_body(request, MOST_BYTES)
        require_live_key(request.scope, service.directory)
        body = parse(IsolationRequest, raw)
        check = service.check_isolation(
            actor_of(request.scope), quick=body.quick, outside=body.results(), turn=body.turn
        )
        return reply(await while_connected(request, check))

    async def take_turn(request: Request) -> Response:
        """Take the turn to check isolation, before the checks that a client makes itself; renew it; or end it."""
        raw = await read_body(request, MOST_BYTES)
        require_live_key(request.scope, service.directory)
        body = parse(TurnRequest, raw)
        if body.end:
            service.isolation.end_turn(body.turn)
            return reply(Turn(turn=body.turn, expires_in_s=0))
        return reply(Turn(turn=service.isolation.take_turn(body.turn), expires_in_s=TURN_S))

    return [
        Operation("GET", PATH, show_isolation, LastIsolation),
        Operation("POST", f"{PATH}/turn", take_turn, Turn, TurnRequest),
        Operation("POST", PATH, check_isolation, IsolationReport, IsolationRequest),
    ]
