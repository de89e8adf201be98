"""Finds a key by its id, or by a part of its id that no other key has."""

from __future__ import annotations

import re
from sqlite3 import Connection
from typing import Final

from tenantd.errors import Conflict

PREFIX: Final = "key_"
LEAST_OF_A_PART: Final = 4
_PART: Final = re.compile(rf"(?:{PREFIX})?[0-9A-Za-z]{{{LEAST_OF_A_PART},11}}")
_HAS_PART: Final = "((id >= :start AND id < :start || '{') OR substr(id, -:length) = :end) LIMIT 2"
_FOUND: Final = f"SELECT id FROM keys WHERE {_HAS_PART}"
_OWN_FOUND: Final = f"SELECT id FROM keys WHERE tenant_id = :tenant AND {_HAS_PART}"


def key_meant(conn: Connection, text: str, tenant_id: int | None = None) -> str:
    """The id of the key with this id, or with these characters (at least 4, with or without `key_`) at either end of
    its id. `text` itself if there is none. Raises Conflict if there are several.

    For a tenant, only its own keys count.
    """
    part = text.strip()
    if not _PART.fullmatch(part):
        return text
    start = part if part.startswith(PREFIX) else PREFIX + part
    end = "" if part.startswith(PREFIX) else part
    values = {"start": start, "end": end, "length": len(part), "tenant": tenant_id}
    found = conn.execute(_FOUND if tenant_id is None else _OWN_FOUND, values).fetchall()
    if len(found) > 1:
        raise Conflict(f"several keys have ids that begin or end with {part}; give more characters", param="key_id")
    return str(found[0][0]) if found else text
