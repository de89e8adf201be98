"""Whether what an engine reports belongs to the requests that it names. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tenantd.live.phases import Phase
from tenantd.live.streams import LiveStream
from tenantd.wire.messages import Step


class Misbound(Exception):
    """The engine reported something for a request with a binding that is not the request's."""

    def __init__(self, stream: LiveStream, binding: int | None) -> None:
        super().__init__(f"request {stream.number} has binding {stream.binding}, and the engine said {binding}")
        self.stream = stream
        self.binding = binding


class Bindings:
    """The bindings of one engine process. Each live stream has its own, from when the engine tells it."""

    def __init__(self) -> None:
        self._last = 0  # the newest that was told; they only grow

    def streams(self, step: Step, live: Mapping[int, LiveStream]) -> list[LiveStream | None]:
        """The stream of each progress of a step; None where the request has ended here.

        Checks the whole step first. Raises Misbound; then nothing of it may be used.
        """
        if step.bound is not None:
            self._learn(step.bound, live)
        streams: list[LiveStream | None] = []
        for progress in step.progress:
            stream = live.get(progress.request)
            if stream is not None and stream.binding != progress.binding:
                raise Misbound(stream, progress.binding)
            streams.append(stream)
        for finish in step.finishes:
            stream = live.get(finish.request)
            if stream is not None and stream.binding != finish.binding:
                raise Misbound(stream, finish.binding)
        _note(step, live)
        return streams

    def _learn(self, bound: Iterable[tuple[int, int]], live: Mapping[int, LiveStream]) -> None:
        """A request may get a new binding, after it gave up its sequence; an old one may change no more."""
        new: set[int] = set()
        for request, binding in bound:
            stream = live.get(request)
            if stream is None or stream.binding == binding:
                continue
            if binding <= self._last or binding in new or stream.phase is Phase.WAITING:
                raise Misbound(stream, binding)
            stream.binding = binding
            new.add(binding)
        self._last = max(new, default=self._last)


def _note(step: Step, live: Mapping[int, LiveStream]) -> None:
    """What a checked step tells of slots."""
    for request, (sequence, ago_micros) in (step.given or {}).items():
        if (stream := live.get(request)) is not None:
            stream.seat(sequence, ago_micros)
    for request, version in (step.adapters or {}).items():
        if (stream := live.get(request)) is not None:
            stream.adapter_version = version
    for request, kv_token_micros, swaps in step.held or ():
        if (stream := live.get(request)) is not None:
            stream.metered.note(kv_token_micros, swaps)
    for finish in step.finishes:
        if (stream := live.get(finish.request)) is not None:
            stream.metered.note(finish.kv_token_micros, finish.swaps)
