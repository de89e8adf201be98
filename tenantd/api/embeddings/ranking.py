"""The answer of /v1/rerank: documents in the order of their scores."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
import numpy as np

from tenantd.api.embeddings.vectors import DECIMALS, ROW_BYTES, SENT_BYTES
from tenantd.live.streams import LiveStream

_encode = msgspec.json.Encoder().encode
COPIES: Final = 2
"""Of a document's text: what is kept of the request, and the answer."""


class Ranking(NamedTuple):
    """`whole` numbers are sent for each document. The `most` best are shown; with their texts, if `documents` has those
    as JSON."""

    whole: int
    most: int
    documents: list[bytes] | None

    def answer_bytes(self, texts: int) -> int:
        kept = 0 if self.documents is None else COPIES * sum(map(len, self.documents))
        return texts * (self.whole * SENT_BYTES + ROW_BYTES) + kept

    def encode(self, stream: LiveStream, model: str) -> bytes:
        scores = np.concatenate([np.frombuffer(sent, "<f4").reshape(-1, self.whole)[:, 0] for sent in stream.vectors])
        assert len(scores) == stream.texts, "a score for each document"
        best = np.argsort(-scores, kind="stable")[: self.most].tolist()
        results = b",".join([self._result(index, float(scores[index])) for index in best])
        usage = stream.usage.prompt_tokens
        rest = _encode({"model": model, "usage": {"prompt_tokens": usage, "total_tokens": usage}})
        return b'{"object":"list","results":[%b],%b' % (results, rest[1:])

    def _result(self, index: int, score: float) -> bytes:
        document = b"" if self.documents is None else b',"document":{"text":%b}' % self.documents[index]
        return b'{"index":%d,"relevance_score":%b%b}' % (index, _encode(round(score, DECIMALS)), document)
