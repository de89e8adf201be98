"""The limits of tenants, each declared once, as a field of `Limits`.

A declaration gives a limit its option in `tenantctl tenant add` and `set`, its field in the admin API, its default in
[limits], its bounds, and its line in `tenantctl tenant show`. A test compares the table in docs/tenants.md with it.
Code that enforces a limit reads it from `Tenant.limits`. Pure; imports only the standard library, because the command
line loads it at every start.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NamedTuple, get_type_hints

LIFTED: Final = "none"
"""A tenant's own value for "no limit", whatever the default is."""
MOST: Final = 2**31
BLOCKS: Final = "blocks all requests"
PER_MINUTE: Final = "Over a limit per minute"


class OnLimit(StrEnum):
    """What happens to a request over its tenant's requests or tokens per minute."""

    REJECT = "reject"  # 429 with a retry-after
    QUEUE = "queue"  # it waits in the daemon, up to `max_wait_s`


class Limit(NamedTuple):
    """The declaration of one limit: a count from 0 to `MOST`, or one of `choices`.

    A name that ends in `_s` counts seconds. Only counts can be removed with "none".
    """

    help: str  # a sentence for help, the configuration file and docs/tenants.md
    panel: str = "Limits"  # the panel of its option in help
    name: str = ""  # name of the field, filled in by `LIMITS`
    choices: type[StrEnum] | None = None
    default: int | str | None = None  # for all tenants, in [limits]; None: no limit
    example: int | None = None  # sample value in the configuration file if there is no default
    no_default: str | None = None  # why [limits] does not contain it
    at_zero: str | None = None  # what 0 does, if that needs saying

    @property
    def option(self) -> str:
        """The option of `tenantctl tenant add` and `set`. Its metavar has the unit."""
        return "--" + self.name.removesuffix("_s").replace("_", "-")

    @property
    def metavar(self) -> str:
        """The values of the option; `default` means the default of all tenants."""
        if self.choices is not None:
            return "|".join([*self.choices, "default"])
        return f"{'SECONDS' if self.name.endswith('_s') else 'N'}|{LIFTED}|default"

    @property
    def own_type(self) -> Any:
        """Type of a tenant's own value; None means the default of all tenants."""
        return int | Literal["none"] | None if self.choices is None else self.choices | None

    def check(self, value: Any) -> Any:
        """A tenant's own value, checked. Raises ValueError, which says what it must be."""
        if value is None:
            return None
        if self.choices is not None:
            if value not in tuple(self.choices):
                choices = ", ".join(f'"{choice}"' for choice in self.choices)
                raise ValueError(f"must be one of {choices}, or null for the default of all tenants")
            return self.choices(value)
        if value == LIFTED or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST):
            return value
        raise ValueError(
            f'must be a whole number from 0 to {MOST}, "{LIFTED}" for no limit, or null for the default of all tenants'
        )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A tenant's effective limits. None means no limit (apart from the daemon's own bounds), 0 blocks.

    Tokens per minute count computed prompt tokens and generated tokens in any 60 seconds. If `max_wait_s` is
    None, a request waits as long as its client does.
    """

    max_concurrent: Annotated[int | None, Limit("Maximum requests running at once.", example=4, at_zero=BLOCKS)] = None
    max_queued: Annotated[
        int | None,
        Limit(
            "Maximum queued requests; more get 429. 0: run at once or be refused.",
            default=256,
            at_zero="no queue: a request runs at once or is refused",
        ),
    ] = None
    max_tokens_per_request: Annotated[
        int | None, Limit("Maximum output tokens per request.", example=4096, at_zero=BLOCKS)
    ] = None
    max_context_tokens: Annotated[
        int | None, Limit("Maximum prompt and output tokens per request.", example=8192, at_zero=BLOCKS)
    ] = None
    requests_per_minute: Annotated[
        int | None, Limit("Maximum requests in any 60 seconds.", example=60, at_zero=BLOCKS)
    ] = None
    tokens_per_minute: Annotated[
        int | None,
        Limit("Maximum prompt and output tokens in any 60 seconds; streams slow down.", example=60_000, at_zero=BLOCKS),
    ] = None
    reserved_slots: Annotated[
        int | None,
        Limit(
            "Slots reserved for the tenant; others may borrow them while they are idle.",
            no_default="cannot have a default, because all reserved slots together must fit engine.slots; "
            "reserve slots for one tenant with: tenantctl tenant set NAME --reserved-slots N",
        ),
    ] = None
    on_limit: Annotated[
        OnLimit,
        Limit(
            "Reject requests over a limit per minute, or queue them.",
            panel=PER_MINUTE,
            choices=OnLimit,
            default=OnLimit.REJECT,
        ),
    ] = OnLimit.REJECT
    max_wait_s: Annotated[
        int | None,
        Limit(
            "With on_limit queue: give up after this many seconds.",
            panel=PER_MINUTE,
            example=30,
            at_zero="does not wait",
        ),
    ] = None


def _declared() -> dict[str, Limit]:
    hints = get_type_hints(Limits, include_extras=True)
    return {name: hint.__metadata__[0]._replace(name=name) for name, hint in hints.items()}


LIMITS: Final = _declared()
"""Every limit by its name, in the order of help texts and tables."""
