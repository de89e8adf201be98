"""A whole daemon whose every answer has to be as it describes it."""

from __future__ import annotations

import httpx

from tests.support.contract import Contract, contract_of
from tests.support.daemon import Daemon


class DescribedDaemon(Daemon):
    """Checks what it answers to its clients."""

    def client(self, timeout_s: float = 300) -> httpx.Client:
        contract = self.contract()
        client = super().client(timeout_s)
        client.event_hooks = {"response": [contract.check]}
        return client

    def contract(self) -> Contract:
        """What it says of itself to administrators."""
        with super().client() as client:
            return contract_of(client)
