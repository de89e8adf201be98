"""Turns the daemon's error answers back into exceptions of `tenantd.errors`, which know their exit codes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tenantd import errors
from tenantd.errors import TenantdError

_BY_STATUS: Final[dict[int, type[TenantdError]]] = {
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    429: errors.QueueFull,
    503: errors.EngineUnavailable,
}

_OPTIONS: Final = {
    "this API key cannot administer: it does not have the scope admin": (
        "this command needs an administrator, but TENANTD_API_KEY is the key of a tenant; use a key with the scope "
        "admin, or on the daemon's machine `tenantctl --admin …`"
    ),
    "this API key is unknown, was revoked or has expired": (
        "the API key in TENANTD_API_KEY is unknown, was revoked or has expired; set it to another one (an "
        "administrator creates it with `tenantctl key create TENANT`), or on the daemon's machine "
        "unset it to act as your Unix user"
    ),
    "send an API key or the header X-Tenant": "pass --tenant NAME or set TENANTD_API_KEY",
    "this API key has none; send the header X-Tenant": "pass --tenant NAME",
    "choose one with the parameter id": "pass --id N",
    "GET /readyz shows its progress": "`tenantctl status` shows its progress",
    "an administrator can resume it": "an administrator can resume it with `tenantctl tenant resume`",
    "event: must be one of": "--event must be one of",
    "request: must be the id": "--request must be the id",
    "state: must be one of": "--state must be one of",
    "by: must be one of": "--by must be one of",
    "month: must be": "--month must be",
    "from: must be": "--from must be",
    "within its timeout_s of": "within its timeout of",
    "choose one with X-Tenant": "choose one with --tenant NAME",
    "send an API key as `Authorization: Bearer td_...`": "set TENANTD_API_KEY to an API key",
}
"""What the daemon tells users of HTTP to do, and what users of this program do instead."""

_FIELD: Final = re.compile("([a-z][a-z_]*): ")


def _all_errors(root: type[TenantdError] = TenantdError) -> Iterator[type[TenantdError]]:
    yield root
    for error in root.__subclasses__():
        yield from _all_errors(error)


def error_classes() -> dict[str, type[TenantdError]]:
    """Every error class by its code. If a subclass shares its base's code, the base is listed."""
    classes: dict[str, type[TenantdError]] = {}
    for error in _all_errors():
        classes.setdefault(error.code, error)
    return classes


def error_from(body: Any, status: int | None = None, retry_after: str | None = None) -> TenantdError:
    """The exception for an error body. If its code is unknown, the HTTP status decides the class.

    `body` is whatever the server sent, possibly not an error object. `status` is None for an event inside a stream.
    """
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        error = {}
    message = str(error.get("message") or f"the daemon answered HTTP {status} without a reason")
    for over_http, here in _OPTIONS.items():
        message = message.replace(over_http, here)
    retry_after_s = int(retry_after) if retry_after and retry_after.isdecimal() else None
    if retry_after_s is not None and "try again in" not in message:
        message += f" (try again in {retry_after_s} s)"
    found = error_classes().get(str(error.get("code"))) or _by_status(status)
    return found(message, param=error.get("param"), retry_after_s=retry_after_s)


def in_options(message: str, typed: Sequence[str]) -> str:
    """A message of the daemon about a field, with the name of the option that was typed for it."""
    if (found := _FIELD.match(message)) is None:
        return message
    option = "--" + found[1].replace("_", "-")
    is_typed = any(word == option or word.startswith(f"{option}=") for word in typed)
    return option + message[found.end(1) :] if is_typed else message


def _by_status(status: int | None) -> type[TenantdError]:
    if status is None or status >= 500:
        return _BY_STATUS.get(status or 500, TenantdError)
    return _BY_STATUS.get(status, errors.InvalidRequest)
