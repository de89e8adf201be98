"""What a GGUF file says of itself: its first few megabytes are read, however large it is, and not by llama.cpp."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tenantd.llamacpp.gguf import NotGguf, check_gguf
from tenantd.llamacpp.metadata import ARRAY, STRING, Metadata, Unreadable, Value

MOST_BYTES: Final = 1 << 28
"""Of metadata. A vocabulary of 256k tokens takes 10 MB."""
MOST_KEYS: Final = 1 << 16
MOST_TENSORS: Final = 1 << 16
MOST_PARTS: Final = 1000
MOST_CHARACTERS: Final = 200  # of a name that is shown
UNALIGNED: Final = 32  # where tensors begin if the file does not say: a multiple of it
TOO_LONG: Final = "damaged: its metadata is longer than that of any model"
PART: Final = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.gguf)", re.DOTALL)
"""The name of a part of a model in several files, as llama.cpp's gguf-split writes it."""
FILE_TYPES: Final = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M"), 7)),
    **dict(enumerate(("Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S"), 16)),
    **dict(enumerate(("IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16"), 25)),
    **dict(enumerate(("TQ1_0", "TQ2_0", "MXFP4"), 36)),
}
"""Of `general.file_type`; llama.h, enum llama_ftype."""


RANKING: Final = frozenset(("cls.weight", "cls.output.weight"))
"""The tensors of a classification head."""


@dataclass(frozen=True, slots=True)
class Header:
    """`kind` is `general.type`: model, adapter, mmproj and the like. `context_tokens` is what it was trained for, and 0
    is unknown. `parts` are the files of a model that was split."""

    path: Path
    name: str
    kind: str
    architecture: str
    parameters: int
    quantisation: str
    context_tokens: int
    has_chat_template: bool
    is_causal: bool
    ranks: bool  # it has what makes scores of pairs of texts
    size_bytes: int
    parts: int = 1
    part: int = 0

    @property
    def is_projector(self) -> bool:
        """Whether it turns images or sound into embeddings of a model."""
        return self.architecture == "clip" or self.kind not in ("model", "adapter")

    @property
    def trouble(self) -> str:
        """Why it cannot be served, "" if nothing speaks against it."""
        if self.kind == "adapter":
            return "is an adapter; give it to a tenant with: tenantctl tenant set NAME --adapter FILE"
        if self.is_projector:
            return "is a projector, for images or sound: set model.projector to it, and model.path to its model"
        if self.part:
            return f"is part {self.part + 1} of {self.parts}; choose the first part"
        if not self.parameters:
            return "has a vocabulary and no weights"
        if not self.is_causal:
            what = "ranks documents" if self.ranks else "makes embeddings"
            return f"{what} and generates no text: set embeddings.model to it"
        return ""


def read_header(path: Path) -> Header:
    """Raises NotGguf, with path and reason, for whatever is not a GGUF file of which the metadata can be read."""
    check_gguf(path)
    try:
        header = _read(path)
        return _with_other_parts(header) if header.parts > 1 and not header.part else header
    except OSError as e:
        raise NotGguf(f"cannot read {path}: {e.strerror}") from e
    except Unreadable as e:
        raise NotGguf(f"{path}: {e}") from None


def _with_other_parts(first: Header) -> Header:
    """The header of a whole model, from that of its first part. Raises Unreadable, OSError."""
    if (named := PART.fullmatch(first.path.name)) is None:
        raise Unreadable(f"is one of {first.parts} parts, but its name has no part number; name it as it was")
    parameters, size_bytes, ranks = first.parameters, first.size_bytes, first.ranks
    for number in range(2, first.parts + 1):
        path = first.path.with_name(f"{named[1]}-{number:05d}-of-{named[3]}{named[4]}")
        try:
            check_gguf(path)
        except NotGguf as e:
            raise Unreadable(f"part {number} of {first.parts} cannot be used: {e}") from None
        other = _read(path)
        parameters += other.parameters
        size_bytes += other.size_bytes
        ranks = ranks or other.ranks
    return replace(first, parameters=parameters, size_bytes=size_bytes, ranks=ranks)


def _read(path: Path) -> Header:
    """The header of one file. Raises Unreadable, OSError."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        metadata = Metadata(file, MOST_BYTES, TOO_LONG)
        if metadata.tensors > MOST_TENSORS or metadata.keys > MOST_KEYS:
            raise Unreadable(
                f"damaged: it claims to have {metadata.tensors} tensors and {metadata.keys} keys, more than any model"
            )
        found = plain_values(metadata)
        parameters, last, ranks = 0, -1, False
        for _ in range(metadata.tensors):
            tensor = metadata.tensor()
            parameters += tensor.values
            ranks = ranks or tensor.name in RANKING
            last = max(last, tensor.offset)
    alignment = _number(found, "general.alignment") or UNALIGNED
    start = -(-metadata.position // alignment) * alignment
    if metadata.tensors and start + last >= size_bytes:
        raise Unreadable(
            f"truncated: it has {size_bytes} bytes, and weights beyond byte {start + last}; download it again"
        )
    return _header(path, size_bytes, parameters, found, ranks=ranks)


def plain_values(metadata: Metadata) -> dict[str, Value]:
    """All values but lists. Of the chat template, only whether there is one."""
    found: dict[str, Value] = {}
    for _ in range(metadata.keys):
        key, kind = metadata.key()
        if kind == ARRAY:
            metadata.skip(kind)
            continue
        value = metadata.value(kind)
        found[key] = value[:MOST_CHARACTERS] if kind == STRING and isinstance(value, str) else value
    return found


def _header(path: Path, size_bytes: int, parameters: int, found: dict[str, Value], *, ranks: bool) -> Header:
    architecture = str(found.get("general.architecture", "unknown"))
    file_type = _number(found, "general.file_type")
    parts = _number(found, "split.count") or 1
    if parts > MOST_PARTS:
        raise Unreadable(f"damaged: it claims to be one of {parts} parts")
    return Header(
        path=path,
        name=str(found.get("general.name") or path.name.removesuffix(".gguf")),
        kind=str(found.get("general.type", "model")),
        architecture=architecture,
        parameters=parameters,
        quantisation=FILE_TYPES.get(file_type, f"type {file_type}") if "general.file_type" in found else "unknown",
        context_tokens=_number(found, f"{architecture}.context_length"),
        has_chat_template=bool(found.get("tokenizer.chat_template")),
        is_causal=found.get(f"{architecture}.attention.causal") is not False,
        ranks=ranks,
        size_bytes=size_bytes,
        parts=parts,
        part=_number(found, "split.no"),
    )


def _number(found: dict[str, Value], key: str) -> int:
    """A number of 64 bits, 0 if it is missing or of another type."""
    value = found.get(key)
    return value if isinstance(value, int) and value >= 0 else 0
