"""Configuration files that are valid TOML and yet more than Python's parser can take; `max_queued` is to blame, in
line 4."""

from __future__ import annotations

from typing import Final

_HEAD: Final = "[engine]\nslots = 4\n[limits]\nmax_queued = "
UNREADABLE: Final = {
    "digits": f"{_HEAD}1{'0' * 4400}\n[log]\n",
    "nesting": f"{_HEAD}{'[' * 5000}{']' * 5000}\n[log]\n",
    "nesting on many lines": _HEAD + "[\n" * 5000 + "]\n" * 5000,
}
