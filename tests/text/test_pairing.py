"""A query and a document as one text."""

from __future__ import annotations

from pathlib import Path

from tenantd.text.pairing import by_marks, by_template
from tenantd.text.vocabulary import ByteVocabulary, LlamaVocabulary
from tests.support.tiny_bert import write_tiny_bert


def test_marks_are_around_both() -> None:
    pairing = by_marks([1], [2, 3], [2])
    assert pairing.join([10, 11], [20]) == [1, 10, 11, 2, 3, 20, 2]
    assert pairing.own_tokens == 4


def test_a_template_may_name_them_in_any_order_and_more_than_once() -> None:
    pairing = by_template("<s>{document}|{query}{query}", lambda text: [ord(letter) for letter in text])
    assert pairing.join([1, 2], [7]) == [*b"<s>", 7, *b"|", 1, 2, 1, 2]
    assert by_template("{query}{document}", lambda text: [0]).join([1], [2]) == [1, 2]


def test_what_a_client_sends_is_never_a_control_token_or_a_place() -> None:
    vocabulary = ByteVocabulary()
    asked, said = (vocabulary.tokenize(text, add_bos=False) for text in ("{document}", "a"))
    assert vocabulary.pairing.join(asked, said) == [*b"{document}", 257, *b"a", 257]


def test_a_bert_has_its_marks_where_llama_server_has_them(tmp_path: Path) -> None:
    bert = LlamaVocabulary.open(write_tiny_bert(tmp_path / "bert.gguf", ranks=True))
    pairing = bert.pairing
    bert.close()
    assert pairing == by_marks([2], [3], [])
