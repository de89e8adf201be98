"""The API's own description, and whether what it answers agrees with it; and bodies that agree with a schema."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import httpx
import jsonschema
from hypothesis import strategies as st

JSON = "application/json"


class Contract:
    """An OpenAPI document. In answers nothing is allowed that it does not name."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.schemas: dict[str, Any] = document["components"]["schemas"]
        for schema in self.schemas.values():
            if "properties" in schema:
                schema.setdefault("additionalProperties", False)

    def operation(self, method: str, path: str) -> dict[str, Any] | None:
        """What it says of a request, None if nothing."""
        for part in ("[^/]+", ".+"):  # names with a slash are the last thing that is tried
            for template, operations in self.document["paths"].items():
                if _pattern(template, part).fullmatch(path) and method.lower() in operations:
                    found: dict[str, Any] = operations[method.lower()]
                    return found
        return None

    def check(self, answer: httpx.Response) -> None:
        """A hook of a client: what is answered has the status and the form that the document says."""
        request = answer.request
        if request.method in ("HEAD", "OPTIONS") and answer.is_success:
            return  # without a body
        described = self.operation(request.method, request.url.path)
        if described is None:
            known = (400, 403, 404, 405)  # 400: parts of OpenAI's API that are not served
            assert answer.status_code in known, f"{request.method} {request.url.path} is not described"
            return
        if answer.headers.get("content-type") != JSON:
            return
        answer.read()
        success = described["responses"].get(str(answer.status_code))
        error = described["responses"]["default"]
        if "$ref" in error:
            error = self.document["components"]["responses"]["Error"]
        content = (success or error)["content"]
        self.check_value(answer.json(), content[JSON]["schema"])

    def check_value(self, value: Any, schema: dict[str, Any]) -> None:
        """Raises jsonschema's ValidationError."""
        self._validator(json.dumps(schema)).validate(value)

    @cache  # noqa: B019  # there is one contract in a test run
    def _validator(self, schema: str) -> jsonschema.Draft202012Validator:
        return jsonschema.Draft202012Validator({**json.loads(schema), "components": self.document["components"]})

    def body_schema(self, method: str, path: str) -> dict[str, Any]:
        """Of the body that an operation takes."""
        described = self.operation(method, path)
        assert described is not None, f"{method} {path} is not described"
        schema: dict[str, Any] = described["requestBody"]["content"][JSON]["schema"]
        return schema

    def values(self, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
        """Values of a schema: every keyword that bodies here have, with short lists and texts."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return st.deferred(lambda: self.values(self.schemas[name]))
        if "const" in schema:
            return st.just(schema["const"])
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        if "anyOf" in schema:
            return st.one_of([self.values(one) for one in schema["anyOf"]])
        kind = schema.get("type")
        if isinstance(kind, list):
            return st.one_of([self.values({**schema, "type": one}) for one in kind])
        assert kind is not None, f"no strategy for {schema}"
        made: st.SearchStrategy[Any] = getattr(self, f"_{kind}")(schema)
        return made

    def _null(self, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
        return st.none()

    def _boolean(self, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
        return st.booleans()

    def _integer(self, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
        return st.integers(schema.get("minimum"), schema.get("maximum"))

    def _number(self, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
        least = schema.get("exclusiveMinimum", schema.get("minimum"))
        most = schema.get("maximum")
        return st.floats(least, most, exclude_min="exclusiveMinimum" in schema, allow_nan=False, allow_infinity=False)

    def _string(self, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
        if "pattern" in schema:
            return st.from_regex(schema["pattern"], alphabet=st.characters(codec="ascii"))
        least = schema.get("minLength", 0)
        most = min(schema.get("maxLength", 1 << 30), least + 20)
        return st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=least, max_size=most)

    def _array(self, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
        least = schema.get("minItems", 0)
        most = min(schema.get("maxItems", 1 << 30), least + 2)
        return st.lists(self.values(schema["items"]), min_size=least, max_size=most)

    def _object(self, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
        own = {name: self.values(one) for name, one in schema.get("properties", {}).items()}
        needed = schema.get("required", [])
        fixed = st.fixed_dictionaries(
            {name: own[name] for name in needed},
            optional={name: strategy for name, strategy in own.items() if name not in needed},
        )
        if not isinstance(more := schema.get("additionalProperties"), dict):
            return fixed
        return st.dictionaries(self._string(schema.get("propertyNames", {})), self.values(more), max_size=3)


@cache
def _pattern(template: str, part: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"{\w+}", part, template))


def contract_of(client: httpx.Client) -> Contract:
    """What a server says of itself to this client. Asked once: it says the same every time."""
    return _contract(client.get("/openapi.json").raise_for_status().text)


@cache
def _contract(text: str) -> Contract:
    return Contract(json.loads(text))
