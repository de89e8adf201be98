"""The metrics of OpenTelemetry's semantic conventions for servers of generative models, as Prometheus spells them.

Names, attributes and buckets are those of opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics; `tenant` is added.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Histogram

from tenantd.domain import FinishReason
from tenantd.events import PathKind, Settled

PROVIDER: Final = "tenantd"
OPERATIONS: Final = {
    PathKind.CHAT: "chat",
    PathKind.COMPLETION: "text_completion",
    PathKind.EMBEDDING: "embeddings",
}
LABELS: Final = ("tenant", "gen_ai_request_model", "gen_ai_operation_name", "gen_ai_provider_name")
DURATION_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
PER_TOKEN_S: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
FIRST_TOKEN_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)

Observation = tuple[Histogram, tuple[str, ...], float]
"""A histogram, the values of its labels with the tenant first, and seconds."""


class GenAi:
    """The histograms of the model that generates, and of the one that embeds."""

    def __init__(self, registry: CollectorRegistry, model: str, embeddings_model: str) -> None:
        self._model, self._embeddings_model = model, embeddings_model
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From admission to the end; error_type is empty on success.",
            [*LABELS, "error_type"],
            buckets=DURATION_S,
            registry=registry,
        )
        self._first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From admission to the first token, of successful requests.",
            LABELS,
            buckets=FIRST_TOKEN_S,
            registry=registry,
        )
        self._per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Time per token after the first, of successful requests.",
            LABELS,
            buckets=PER_TOKEN_S,
            registry=registry,
        )

    def observed(self, event: Settled) -> Iterator[Observation]:
        """What the end of a request adds."""
        operation = OPERATIONS.get(event.path)
        if operation is None or event.duration_micros is None:
            return
        model = self._embeddings_model if event.path is PathKind.EMBEDDING else self._model
        labels = (event.tenant, model, operation, PROVIDER)
        is_good = event.state in (FinishReason.STOP, FinishReason.LENGTH)
        error_type = "" if is_good else event.cause or event.state.value
        yield self._duration, (*labels, error_type), event.duration_micros / 1e6
        if not is_good or event.first_token_micros is None:
            return
        yield self._first_token, labels, event.first_token_micros / 1e6
        if (more := event.usage.completion_tokens - 1) > 0:
            yield self._per_token, labels, (event.duration_micros - event.first_token_micros) / more / 1e6
