"""Which fields a request may have: ours, other servers' names for the same, and those that make no difference.

A field that would change the answer and cannot be had is refused, so that nobody takes an answer for what it is not.
One that nobody knows is refused too, with the name it may have been meant as; where the daemon is lenient
(`server.lenient`) it is left out and named in the answer's `x-tenantd-ignored`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

from tenantd.api.body import Body, own_fields, read_object, unknown_field, validate
from tenantd.errors import InvalidRequest
from tenantd.text.excerpt import MOST_CHARACTERS, clean

IGNORED_HEADER: Final = "x-tenantd-ignored"
MAX_FIELDS: Final = 256
"""Of one object of a request. More are nobody's mistake, and each is looked at on the event loop."""
MOST_IGNORED_SHOWN: Final = 16
_NOT_IN_HEADERS: Final = re.compile(r"[^!-+\--~]")  # what is not printable ASCII, and the comma between names


class Same(NamedTuple):
    """Another server's name for `field`. `convert` makes the field's value, None for nothing; it raises ValueError."""

    field: str
    note: str = ""
    convert: Callable[[Any], Any] = lambda value: value


class Taken(NamedTuple):
    """It makes no difference to the answer."""

    reason: str


class Refused(NamedTuple):
    """It would make a difference, unless its value is null or one of `neutral`."""

    reason: str
    neutral: tuple[Any, ...] = ()


class Parts(NamedTuple):
    """An object whose parts are other names for fields of ours."""

    parts: Mapping[str, Same]
    foreign: Mapping[str, Taken | Refused]


Foreign = Same | Taken | Refused | Parts


class Fields(Body):
    """An object of a request. `foreign` says what becomes of the fields that are not its own."""

    foreign: ClassVar[Mapping[str, Foreign]] = {}

    def check_names(self, names: Names) -> None:
        """Read the names in what is not itself a model. Raises InvalidRequest."""


F = TypeVar("F", bound=Fields)


def read_request(model: type[F], body: bytes, names: Names) -> F:
    """The request in a body, whichever names its fields have. Takes as long as `parse`. Raises InvalidRequest."""
    request = validate(model, names.read(model, read_object(body)))
    request.check_names(names)
    return request


class Names:
    """Reads the names in one request. `ignored` are those left out, as they can be shown, `sent_as` what was renamed:
    from our name to the client's."""

    def __init__(self, *, lenient: bool = False) -> None:
        self.ignored: list[str] = []
        self.sent_as: dict[str, str] = {}
        self._lenient = lenient

    def read(self, model: type[Fields], data: dict[str, Any], where: str = "") -> dict[str, Any]:
        """`data` with our names only, inner objects included. Raises InvalidRequest."""
        own = own_fields(model)
        result: dict[str, Any] = {}
        renamed: list[tuple[str, Same, Any]] = []
        for name in self.known(own, model.foreign, data, where):
            if isinstance(foreign := model.foreign.get(name), Same):
                renamed.append((name, foreign, data[name]))
            elif isinstance(foreign, Parts):
                renamed += self._parts(name, foreign, data[name], where)
            else:
                result[name] = data[name]
        for name, same, value in renamed:
            self._rename(name, same, value, result, where)
        for name, inner in own.items():
            if inner is not None and issubclass(inner, Fields) and isinstance(result.get(name), dict):
                result[name] = self.read(inner, result[name], f"{where}{name}.")
        return result

    def known(self, own: Collection[str], foreign: Mapping[str, Any], data: Mapping[str, Any], where: str) -> list[str]:
        """The names that mean something here. Raises InvalidRequest for one that is refused or unknown."""
        if len(data) > MAX_FIELDS:
            raise InvalidRequest(f"{where[:-1] or 'the request'} has more than {MAX_FIELDS} fields")
        kept: list[str] = []
        for name, value in data.items():
            if name in own:
                kept.append(name)
            elif (treatment := foreign.get(name)) is None:
                self._unknown(name, [*own, *foreign], where)
            elif isinstance(treatment, Refused):
                if value is not None and not any(_equal(value, neutral) for neutral in treatment.neutral):
                    raise InvalidRequest(f"{where}{name} is not supported: {treatment.reason}", param=where + name)
            elif isinstance(treatment, Same | Parts) and value is not None:
                kept.append(name)
        return kept

    def _parts(self, name: str, treatment: Parts, value: Any, where: str) -> list[tuple[str, Same, Any]]:
        if not isinstance(value, dict):
            raise InvalidRequest(f"{where}{name}: must be an object", param=where + name)
        names = self.known(treatment.parts, treatment.foreign, value, f"{where}{name}.")
        return [(f"{name}.{part}", treatment.parts[part], value[part]) for part in names if value[part] is not None]

    def _unknown(self, name: str, known: list[str], where: str) -> None:
        shown = where + clean(name, MOST_CHARACTERS)
        if self._lenient:
            if len(self.ignored) <= MOST_IGNORED_SHOWN:
                self.ignored.append(shown)
            return
        raise InvalidRequest(f"{shown}: {unknown_field(name, known)}", param=shown)

    def _rename(self, name: str, same: Same, value: Any, result: dict[str, Any], where: str) -> None:
        try:
            value = same.convert(value)
        except ValueError as e:
            raise InvalidRequest(f"{where}{name}: {e}", param=where + name) from None
        if value is None:
            return
        there = result.get(same.field)
        if there is not None and not _equal(there, value):
            other = self.sent_as.get(where + same.field, where + same.field)
            raise InvalidRequest(f"{where}{name} and {other} are the same setting; send one", param=where + name)
        result[same.field] = value
        self.sent_as[where + same.field] = where + name

    @contextmanager
    def as_sent(self) -> Iterator[None]:
        """Errors within name fields as the client does."""
        try:
            yield
        except InvalidRequest as e:
            param = e.param or ""
            for ours, sent in self.sent_as.items():
                if param == ours or param.startswith((f"{ours}.", f"{ours}[")):
                    e.message, e.param = f"{sent}: {e.message.removeprefix(f'{param}: ')}", sent
                    e.args = (e.message,)
                    break
            raise

    def header(self) -> dict[str, str]:
        """What tells the client which of its fields were ignored."""
        if not self.ignored:
            return {}
        names = [_NOT_IN_HEADERS.sub("?", name) for name in self.ignored[:MOST_IGNORED_SHOWN]]
        return {IGNORED_HEADER: ", ".join(names + ["..."] * (len(self.ignored) > len(names)))}


def _equal(a: Any, b: Any) -> bool:
    """JSON's equality: true is not 1."""
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)
