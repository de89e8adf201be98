"""The newest lines of the log of requests, for administrators to read and follow."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from tenantd.api.admin.parameters import whole_number
from tenantd.api.operations import Operation
from tenantd.api.replies import reply
from tenantd.errors import InvalidRequest
from tenantd.watching.request_log import KeptLines, RequestLog

MOST_LINES: Final = 1000


def log_operations(request_log: RequestLog) -> list[Operation]:
    """`request_log` keeps the lines."""

    async def logs(
        tenant: str | None = None, since: str | None = None, after: str | None = None, limit: str = "100"
    ) -> Response:
        """Read a line for each request that has ended, without prompts and answers: the newest lines, or with `after`,
        those after that number, oldest first. `since` is in microseconds since 1970.

        To follow the log, pass `head` as `after`, or the number of the last line if you got `limit` lines. The
        newest 10,000 lines since the daemon started are kept.
        """
        most = whole_number("limit", limit)
        if not 1 <= most <= MOST_LINES:
            raise InvalidRequest(f"limit: must be from 1 to {MOST_LINES}", param="limit")
        if after is not None:
            if since is not None:
                raise InvalidRequest("use either after or since, not both", param="after")
            return reply(request_log.after(whole_number("after", after), most, tenant))
        since_micros = 0 if since is None else whole_number("since", since)
        return reply(request_log.newest(most, tenant, since_micros))

    return [Operation("GET", "/admin/v1/logs", logs, KeptLines)]
