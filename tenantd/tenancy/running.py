"""What administration needs of the running daemon."""

from __future__ import annotations

from typing import Protocol


class Running(Protocol):
    """The running daemon, in which changes take effect."""

    async def tenants_changed(self) -> None:
        """Reload tenants and keys. Raises LedgerUnavailable or QueueFull, and then does it as soon as it can."""

    def tenant_removed(self, tenant_id: int | None) -> None:
        """Forget this tenant and its keys, and end its requests."""

    def tenant_forgotten(self, tenant_id: int) -> None:
        """Forget what this tenant, which may have been removed, had in memory."""

    def tenant_suspended(self, tenant_id: int | None) -> None:
        """Admit no more requests of this tenant."""

    def key_revoked(self, key_id: str) -> None:
        """Admit no more requests of this key, and end its running ones."""

    def has_requests(self, tenant: str) -> bool:
        """Whether requests under this name are live, wait for its limits per minute, or are not settled yet."""

    def cancel(self, request_id: str) -> bool:
        """Cancel a live request. False if there is none with this id."""

    async def check_system_prompt(self, text: str) -> None:
        """Raises InvalidRequest if a chat with this system prompt does not fit the context, or cannot show it."""
