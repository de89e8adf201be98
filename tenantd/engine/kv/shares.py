"""Divides the bytes for prefixes between tenants: a share by weight each, and what others leave unused. Pure.

A tenant always gets its share: others never push out what it has within that. What it has beyond is lent, and
taken back for those who are within theirs.
"""

from __future__ import annotations


class Shares:
    """How many bytes each owner uses of one budget."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._used: dict[int, int] = {}
        self._weights: dict[int, float] = {}
        self._total_weight: float | None = None  # added up when it is asked for: weights often change together

    @property
    def room_bytes(self) -> int:
        """What nobody uses."""
        return self.budget_bytes - self.used_bytes

    @property
    def used(self) -> dict[int, int]:
        """Bytes by owner, for those who have a share or use any."""
        return {owner: self._used.get(owner, 0) for owner in self._weights | self._used}

    def set_weight(self, owner: int, weight: float | None) -> None:
        """Give an owner a share by this weight, or none. What it uses beyond that is lent from now on."""
        if weight is None:
            self._weights.pop(owner, None)
        else:
            self._weights[owner] = weight
        self._total_weight = None

    def share_bytes(self, owner: int) -> int:
        """What an owner can always have."""
        if (weight := self._weights.get(owner)) is None:
            return 0
        if self._total_weight is None:
            self._total_weight = sum(self._weights.values())
        return int(self.budget_bytes * weight / self._total_weight)

    def take(self, owner: int, size_bytes: int) -> None:
        """Use bytes. They must fit the budget."""
        assert 0 <= size_bytes <= self.room_bytes, "room is made first"
        self.used_bytes += size_bytes
        self._used[owner] = self._used.get(owner, 0) + size_bytes

    def give_back(self, owner: int, size_bytes: int) -> None:
        """Use them no more."""
        self.used_bytes -= size_bytes
        self._used[owner] -= size_bytes
        assert self._used[owner] >= 0, "nobody gives back more than it took"
        if not self._used[owner]:
            del self._used[owner]

    def is_over(self, owner: int, more_bytes: int = 0) -> bool:
        """Whether an owner would use more than its share once it has taken so many bytes more."""
        return self._used.get(owner, 0) + more_bytes > self.share_bytes(owner)
