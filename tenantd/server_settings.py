"""The table `[server]` of the configuration: where clients connect, and how far each may go."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from tenantd.listen_settings import MOST_LISTENERS, OWN_LIMITS, ListenConfig
from tenantd.setting_kinds import File, Line, Section


class ServerConfig(Section):
    """Where clients connect."""

    socket: File | None = Field(
        default=None,
        description="Unix socket. Default: $XDG_RUNTIME_DIR/tenantd/tenantd.sock.",
        examples=["/run/tenantd/tenantd.sock"],
    )
    socket_mode: str = Field("0660", description="Permissions of the socket, in octal.", pattern=r"^0?[0-7]{3}$")
    socket_group: Line = Field("", description="Group that owns the socket; empty keeps the daemon's own.")
    admin_group: Line = Field(
        "",
        description="Group whose members are administrators, as are root and the daemon's user; empty: no group.",
    )
    max_body_bytes: int = Field(32 * 1024 * 1024, ge=1024, le=1 << 30, description="Largest request body.")
    lenient: bool = Field(
        False,
        description="Ignore unknown request fields and list them in x-tenantd-ignored; if false, they get 400.",
    )
    body_bytes_total: int = Field(
        64 * 1024 * 1024,
        ge=1024,
        le=1 << 36,
        description="Memory for all request bodies, and as much again for tokens and vectors in answers; one tenant "
        "can use up to half.",
    )
    idempotency_bytes: int = Field(
        4 * 1024 * 1024,
        ge=0,
        le=1 << 40,
        description="Memory for each tenant's last answers to requests with an Idempotency-Key.",
    )
    head_timeout_s: float = Field(15, gt=0, le=3600, description="Timeout for the request line and headers.")
    body_timeout_s: float = Field(30, gt=0, le=3600, description="Drop a request whose body stalls for this long.")
    idle_timeout_s: float = Field(120, gt=0, le=86_400, description="Close an idle connection after this long.")
    max_connections_per_uid: int = Field(
        0, ge=0, le=1 << 20, description="Maximum connections of one Unix user. 0: half of the file descriptors."
    )
    max_connections_per_key: int = Field(
        0, ge=0, le=1 << 20, description="Maximum connections with one API key. 0: half of the file descriptors."
    )
    max_connections_per_address: int = Field(
        0,
        ge=0,
        le=1 << 20,
        description="Maximum TCP connections from one address (IPv6: one /64). 0: an eighth of the file descriptors.",
    )
    drain_timeout_s: float = Field(30, ge=0, le=3600, description="On SIGTERM, let requests run for this long.")
    stop_timeout_s: float = Field(
        50,
        ge=1,
        le=3600,
        description="Maximum time for the whole shutdown, drain_timeout_s included; then the daemon exits at once.",
    )
    write_timeout_s: float = Field(60, gt=0, le=3600, description="Drop a client that reads nothing for this long.")
    listen: tuple[ListenConfig, ...] = Field(
        (), strict=False, max_length=MOST_LISTENERS, description="TCP addresses, one table each."
    )

    @field_validator("listen")
    @classmethod
    def _different(cls, value: tuple[ListenConfig, ...]) -> tuple[ListenConfig, ...]:
        addresses = [one.address for one in value if not one.address.endswith(":0")]
        if twice := {address for address in addresses if addresses.count(address) > 1}:
            raise ValueError(f"{min(twice)} is listed twice")
        return value

    @model_validator(mode="after")
    def _bodies_fit(self) -> Self:
        for number, one in enumerate(self.listen):
            if one.max_body_bytes is not None and one.max_body_bytes > self.max_body_bytes:
                raise ValueError(
                    f"listen, entry {number + 1}: max_body_bytes must be at most max_body_bytes ({self.max_body_bytes})"
                )
        return self

    def at(self, listener: ListenConfig) -> ServerConfig:
        """The settings in force for clients of a listener, which may have limits of its own."""
        own = {name: getattr(listener, name) for name in OWN_LIMITS}
        return self.model_copy(update={name: value for name, value in own.items() if value is not None})
