from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from tenantd.mistakes import in_words


class Model(BaseModel):
    whole: Annotated[int, Field(gt=0, le=9)] = 1
    number: Annotated[float, Field(ge=0, lt=2, allow_inf_nan=False)] = 1.0
    flag: bool = True
    text: Annotated[str, Field(min_length=1, max_length=3)] = "a"
    items: Annotated[list[int], Field(min_length=1, max_length=2)] = [1]
    table: dict[str, int] = {}
    word: Literal["a", "b"] = "a"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("whole", 0, "must be more than 0"),
        ("whole", 10, "must be at most 9"),
        ("whole", "x", "must be a whole number"),
        ("whole", 1.5, "must be a whole number"),
        ("whole", None, "must be a whole number"),
        ("number", -1, "must be at least 0"),
        ("number", 2, "must be less than 2"),
        ("number", "x", "must be a number"),
        ("number", float("inf"), "must be a finite number"),
        ("flag", "perhaps", "must be true or false"),
        ("text", 1, "must be a string"),
        ("text", "", "must have at least 1 character"),
        ("text", "abcd", "must have at most 3 characters"),
        ("items", 1, "must be a list"),
        ("items", [], "must have at least 1 item"),
        ("items", [1, 2, 3], "must have at most 2 items"),
        ("table", 1, "must be a table"),
        ("word", "c", "must be 'a' or 'b'"),
    ],
)
def test_a_mistake_is_told_without_pydantics_words(field: str, value: Any, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Model.model_validate({field: value})
    assert in_words(caught.value.errors()[0], "a table") == words
