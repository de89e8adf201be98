"""What a projector's file says of itself, and the memory that it will take. A projector turns images into embeddings of
a model, and is a file beside it ("mmproj")."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from tenantd.errors import ModelError
from tenantd.llamacpp.gguf import NotGguf, check_gguf
from tenantd.llamacpp.header import MOST_BYTES, TOO_LONG, plain_values
from tenantd.llamacpp.metadata import Metadata, Unreadable, Value

SETTING: Final = "model.projector"
ARCHITECTURE: Final = "clip"
VALUE_BYTES: Final = 4
ROWS_KEPT: Final = 8
"""About how many values of each patch are in the work space at once, as multiples of the widest layer."""


class Projector(NamedTuple):
    """`kind` is how it works, such as "gemma3". `side` is that of the square, in pixels, that it looks at. `dimensions`
    are those of its embeddings, 0 if the file does not say."""

    path: Path
    kind: str
    side: int
    dimensions: int
    sees_images: bool
    file_bytes: int
    work_bytes: int


def read_projector(path: Path) -> Projector:
    """Raises ModelError, which names the setting, for whatever is not a projector for images."""
    try:
        check_gguf(path)
        with path.open("rb") as file:
            found = plain_values(Metadata(file, MOST_BYTES, TOO_LONG))
        size_bytes = path.stat().st_size
    except NotGguf as e:
        raise ModelError(f"{e} ({SETTING})") from None
    except Unreadable as e:
        raise ModelError(f"{path}: {e} ({SETTING})") from None
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror} ({SETTING})") from e
    if found.get("general.architecture") != ARCHITECTURE:
        kind = str(found.get("general.type", "model"))[:40]
        raise ModelError(
            f"{path}: this is not a projector, but of the type {kind!r}; set {SETTING} to the mmproj file of the model"
        )
    projector = _projector(path, size_bytes, found)
    if not projector.sees_images:
        raise ModelError(f"{path}: is not a projector for images ({SETTING})")
    return projector


def _projector(path: Path, size_bytes: int, found: dict[str, Value]) -> Projector:
    side, patch = _number(found, "image_size"), _number(found, "patch_size")
    patches = (side // patch) ** 2 if patch else 0
    widest = max(_number(found, "embedding_length"), _number(found, "feed_forward_length"))
    return Projector(
        path=path,
        kind=str(found.get("clip.projector_type") or found.get("clip.vision.projector_type") or "unknown"),
        side=side,
        dimensions=_number(found, "projection_dim"),
        sees_images=found.get("clip.has_vision_encoder") is True,
        file_bytes=size_bytes,
        work_bytes=VALUE_BYTES * patches * widest * ROWS_KEPT,
    )


def projector_bytes(path: str) -> int:
    """What it will take, about: its weights, and work space for an image. Raises ModelError."""
    projector = read_projector(Path(path))
    return projector.file_bytes + projector.work_bytes


def _number(found: dict[str, Value], key: str) -> int:
    value = found.get(f"clip.vision.{key}")
    return value if isinstance(value, int) and value >= 0 else 0
