"""Which fields a request may have: our own, other servers' names for them, and fields without effect.

A field that would change the answer but is not supported is refused, so that nobody gets an answer other than the one
they asked for. An unknown field is refused too, with the name that was probably meant. With `server.lenient` it is
ignored instead and listed in the answer's `x-tenantd-ignored`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

from pydantic import ConfigDict

from tenantd.api.body import Body, own_fields, read_object, unknown_field, validate
from tenantd.errors import InvalidRequest
from tenantd.text.excerpt import MOST_CHARACTERS, clean

IGNORED_HEADER: Final = "x-tenantd-ignored"
MAX_FIELDS: Final = 256
"""Maximum fields of one object in a request. Each is checked in the event loop."""
MOST_IGNORED_SHOWN: Final = 16
_NOT_IN_HEADERS: Final = re.compile(r"[^!-+\--~]")  # not printable ASCII, or the comma that separates names


class Same(NamedTuple):
    """Another server's name for `field`. `convert` returns our value, or None to omit it. May raise ValueError."""

    field: str
    note: str = ""
    convert: Callable[[Any], Any] = lambda value: value


class Taken(NamedTuple):
    """A field that is accepted, but has no effect on the answer."""

    reason: str


class Refused(NamedTuple):
    """A field that would change the answer, unless its value is null or one of `neutral`."""

    reason: str
    neutral: tuple[Any, ...] = ()


class Parts(NamedTuple):
    """An object whose parts are other names for our fields."""

    parts: Mapping[str, Same]
    foreign: Mapping[str, Taken | Refused]


Foreign = Same | Taken | Refused | Parts


class Fields(Body):
    """An object in a request. `foreign` says how fields other than its own are handled."""

    model_config = ConfigDict(json_schema_extra=lambda schema: schema.pop("additionalProperties", None))
    foreign: ClassVar[Mapping[str, Foreign]] = {}

    def check_names(self, names: Names) -> None:
        """Check names in parts that are not models themselves. Raises InvalidRequest."""


F = TypeVar("F", bound=Fields)


def read_request(model: type[F], body: bytes, names: Names) -> F:
    """Parse a request that may use other servers' field names. Takes as long as `parse`. Raises InvalidRequest."""
    request = validate(model, names.read(model, read_object(body)))
    request.check_names(names)
    return request


class Names:
    """Reads the field names of one request. `ignored` lists the ignored names, safe to show; `sent_as` maps our
    names of renamed fields to the client's."""

    def __init__(self, *, lenient: bool = False) -> None:
        self.ignored: list[str] = []
        self.sent_as: dict[str, str] = {}
        self._lenient = lenient

    def read(self, model: type[Fields], data: dict[str, Any], where: str = "") -> dict[str, Any]:
        """`data` with only our names, also in inner objects. Raises InvalidRequest."""
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
        """The names in `data` that have an effect. Raises InvalidRequest for a refused or unknown name."""
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
        """Makes errors raised inside use the client's field names."""
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
        """The header that lists ignored fields."""
        if not self.ignored:
            return {}
        names = [_NOT_IN_HEADERS.sub("?", name) for name in self.ignored[:MOST_IGNORED_SHOWN]]
        return {IGNORED_HEADER: ", ".join(names + ["..."] * (len(self.ignored) > len(names)))}


def _equal(a: Any, b: Any) -> bool:
    """Equality as in JSON, where true is not 1."""
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)
