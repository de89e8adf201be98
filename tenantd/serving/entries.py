"""What the audit trail says of a request when it enters and when it is answered.

Both entries are made in the ledger's thread, in the transaction of the row they speak of, because hashing a long prompt
or answer would hold up the event loop. They hold hashes and lengths, never a prompt or a text.
"""

from __future__ import annotations

from typing import Any

from tenantd.clock import now_micros
from tenantd.ledger.audit import Entry, MakeEntry
from tenantd.live.generation import Generation
from tenantd.live.phases import Phase
from tenantd.live.streams import LiveStream
from tenantd.tenancy.fingerprints import of_bytes, of_tokens
from tenantd.tenancy.recorded import ENTERED, RESPONSE, who


class PromptHashes:
    """The hashes of the prompts of one client's request. Each is made once, whatever the number of choices."""

    def __init__(self) -> None:
        self._made: dict[tuple[bytes, int], tuple[list[int], str]] = {}  # with the prompt, so that its id stays its own

    def of(self, key: bytes, prompt: list[int]) -> str:
        """The hash of a prompt, which is not changed any more."""
        found = self._made.get((key, id(prompt)))
        if found is None:
            found = self._made[key, id(prompt)] = (prompt, of_tokens(key, prompt))
        return found[1]


class RequestEntries:
    """The entries of one request. Both hash with the key that its tenant had when it entered."""

    def __init__(
        self, stream: LiveStream, generation: Generation, key: bytes | None, hashes: PromptHashes, *, is_kept: bool
    ) -> None:
        """Without a `key` nothing is hashed; unless `is_kept` there are no entries."""
        self._stream = stream
        self._generation = generation
        self._key = key
        self._hashes = hashes
        self._is_kept = is_kept

    @property
    def entered(self) -> MakeEntry | None:
        """What makes the entry of a request that was admitted; None if the trail is off."""
        return self._entered if self._is_kept else None

    def _entered(self) -> Entry:
        stream, generation, key = self._stream, self._generation, self._key
        prompt, sampling = generation.prompt, generation.sampling
        return self._entry(
            stream.created_micros,
            ENTERED,
            {
                **who(stream.actor),
                "kind": generation.kind,
                "choice": generation.choice,
                "n": generation.choices,
                "prompt_tokens": len(prompt),
                "prompt_hmac": None if key is None else self._hashes.of(key, prompt),
                "max_tokens": stream.max_tokens,
                "temperature": sampling.temperature,
                "logprobs": sampling.logprobs,
                "queue_position": stream.queue_position,
                "is_flex": stream.is_flex,
            },
        )

    def response(self) -> MakeEntry | None:
        """What makes the entry of a request that has ended now; None if the trail is off.

        The text is what was generated for the client, or its vectors; one that left may have received less of it.
        """
        if not self._is_kept:
            return None
        stream, key, at_micros = self._stream, self._key, now_micros()
        state, usage, error = stream.finish_reason, stream.usage, stream.error
        assert state is not None, "only what has ended has an answer"
        is_refused = stream.phase is Phase.REFUSED  # the client got an error and no text

        def make() -> Entry:
            parts = [] if is_refused or stream.said is None else _said(stream)
            return self._entry(
                at_micros,
                RESPONSE,
                {
                    "state": state.value,
                    "cause": None if error is None else error.code,
                    "prompt_tokens": usage.prompt_tokens,
                    "cached_tokens": usage.cached_tokens,
                    "completion_tokens": usage.completion_tokens,
                    "text_bytes": sum(map(len, parts)),
                    "text_hmac": None if key is None else of_bytes(key, *parts),
                },
            )

        return make

    def _entry(self, at_micros: int, event: str, detail: dict[str, Any]) -> Entry:
        stream = self._stream
        return Entry(
            at_micros=at_micros,
            event=event,
            tenant_id=stream.tenant_id,
            tenant=stream.tenant,
            request_id=stream.id,
            detail=detail,
        )


def _said(stream: LiveStream) -> list[bytes]:
    """What a request was answered with, in parts."""
    if stream.vectors:
        return stream.vectors
    return [] if stream.said is None else [stream.said.getvalue().encode("utf-8", "replace")]
