"""A conversation with a model: what was said, how answers are to be made, and how it is kept in a file."""

from __future__ import annotations

import json
import math
from difflib import get_close_matches
from typing import Any, Final, Self

from tenantctl.sampling_options import FIELDS
from tenantd.errors import InvalidRequest

VERSION: Final = 1
WHOLE: Final = ("max_tokens", "top_k", "seed")
"""Settings that are whole numbers. The rest are numbers, and `stop` is a text."""
SETTINGS: Final = tuple(name for name in FIELDS if name != "ignore_eos")


class Conversation:
    """`messages` are those of the user and the answers, in turn. `unsent` is a message that got no answer."""

    def __init__(self, system: str = "") -> None:
        self.system = system
        self.settings: dict[str, Any] = {}
        self.messages: list[dict[str, str]] = []
        self.unsent = ""

    def body(self, text: str, *, again: bool = False) -> dict[str, Any]:
        """The request for an answer to `text`: `again` as if the last message and its answer were not there."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        earlier = self.messages[:-2] if again else self.messages
        return {"messages": [*first, *earlier, {"role": "user", "content": text}], **self.settings}

    def add(self, text: str, answer: str, *, again: bool = False) -> None:
        """A message and its answer, `again` instead of the last ones."""
        if again:
            del self.messages[-2:]
        self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        self.unsent = ""

    @property
    def last_message(self) -> str:
        """The message to send again: one without an answer, or the last one. "" if there is none."""
        return self.unsent or (self.messages[-2]["content"] if self.messages else "")

    def clear(self) -> None:
        """Forget everything said, but not what was not sent."""
        self.messages = []

    def set(self, name: str, value: str) -> None:
        """Change a setting; "" or "default" unsets it. Ranges are checked by the daemon. Raises InvalidRequest."""
        if name not in SETTINGS:
            close = get_close_matches(name, SETTINGS)
            raise InvalidRequest(
                f"no setting {name!r}; "
                + (f"did you mean {close[0]}?" if close else f"there are {', '.join(SETTINGS)}")
            )
        if value in ("", "default"):
            self.settings.pop(name, None)
            return
        self.settings[name] = [value] if name == "stop" else _number(name, value)

    # -- in a file

    def text(self) -> str:
        """As a JSON document."""
        document = {
            "version": VERSION,
            "system": self.system,
            "settings": self.settings,
            "messages": self.messages,
        }
        return json.dumps(document, ensure_ascii=False, indent=2) + "\n"

    @classmethod
    def of(cls, text: str) -> Self:
        """One from a JSON document. Raises InvalidRequest."""
        try:
            document = _read(text)
            made = cls(_text(document.get("system", "")))
            pairs = document["messages"]
            for asked, answered in zip(pairs[::2], pairs[1::2], strict=True):
                if (asked["role"], answered["role"]) != ("user", "assistant"):
                    raise ValueError("the messages of user and assistant do not alternate")
                made.add(_text(asked["content"]), _text(answered["content"]))
            for name, value in document.get("settings", {}).items():
                made.set(name, value[0] if isinstance(value, list) else str(value))
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as e:
            raise InvalidRequest(f"it is not a saved conversation: {e}") from None
        return made


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidRequest("it is not a saved conversation, and not even JSON") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a message is not text")
    return value


def _number(name: str, value: str) -> float | int:
    try:
        number = int(value) if name in WHOLE else float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        kind = "a whole number" if name in WHOLE else "a number"
        raise InvalidRequest(f"{name} must be {kind} (got {value[:40]!r})")
    return number
