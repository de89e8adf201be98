"""Tokens per minute as a window: in no 60 seconds are there more than the limit. Pure; seconds are the caller's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

WINDOW_S: Final = 60.0


class TokenWindow:
    """What a tenant was given in the last minute. `limit_tokens` None means no limit; it may change at any time."""

    def __init__(self, limit_tokens: int | None = None) -> None:
        self.limit_tokens = limit_tokens
        self._given: deque[tuple[float, int]] = deque()  # (when it leaves the window, tokens)
        self._sum = 0
        self._latest_s = float("-inf")

    def allowance(self, now_s: float) -> int | None:
        """Tokens that may be given now; None when there is no limit."""
        if self.limit_tokens is None:
            return None
        self._forget(now_s)
        return max(0, self.limit_tokens - self._sum)

    def give(self, tokens: int, now_s: float) -> None:
        """Book what was given. Kept without a limit, too, so that one set later counts the last minute."""
        self._forget(now_s)
        if tokens:
            leaves_s = self._latest_s + WINDOW_S
            if self._given and self._given[-1][0] == leaves_s:
                tokens_before = self._given.pop()[1]
                self._given.append((leaves_s, tokens_before + tokens))
            else:
                self._given.append((leaves_s, tokens))
            self._sum += tokens

    def recall(self, given: Iterable[tuple[float, int]], now_s: float) -> None:
        """Count what was given before this window began: (seconds until it no longer counts, tokens), in that order."""
        assert not self._given, "what came before is told first"
        self._forget(now_s)
        for left_s, tokens in given:
            self._given.append((self._latest_s + left_s, tokens))
            self._sum += tokens

    def next_s(self, now_s: float) -> float | None:
        """When there will be an allowance again: None if there is one, or will never be (a limit of 0)."""
        if self.allowance(now_s) != 0 or not self._given:
            return None
        return self._given[0][0]

    def _forget(self, now_s: float) -> None:
        self._latest_s = max(self._latest_s, now_s)  # a clock that goes backwards gives nothing back
        while self._given and self._given[0][0] <= self._latest_s:
            self._sum -= self._given.popleft()[1]
