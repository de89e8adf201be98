from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.errors import InvalidRequest, ModelError
from tenantd.text.vocabulary import ByteVocabulary, LlamaVocabulary, Vocabulary
from tests.support.examples import examples
from tests.support.tiny_gguf import write_tiny_gguf


def text_of(vocabulary: Vocabulary, tokens: list[int]) -> str:
    return b"".join(map(vocabulary.piece, tokens)).decode()


@given(st.text())
def test_bytes_become_tokens_and_text_again(text: str) -> None:
    vocabulary = ByteVocabulary()
    tokens = vocabulary.tokenize(text)
    assert tokens[0] == vocabulary.bos
    assert text_of(vocabulary, tokens) == text
    assert tokens[1:] == vocabulary.tokenize(text, add_bos=False)


def test_the_byte_vocabulary_ends_at_257_and_shows_no_control_tokens() -> None:
    vocabulary = ByteVocabulary()
    assert [token for token in range(vocabulary.n_tokens) if vocabulary.is_end(token)] == [257]
    assert vocabulary.piece(256) == vocabulary.piece(257) == b""


def test_the_byte_vocabulary_chats_without_loading_llama_cpp() -> None:
    code = """
import sys
import time
from tenantd.text.chat import ChatFormatter
from tenantd.text.detokenize import TextStream
from tenantd.text.vocabulary import ByteVocabulary
vocabulary = ByteVocabulary()
ids = ChatFormatter(vocabulary).render([{"role": "user", "content": "hi"}])
print("".join(map(TextStream(vocabulary).push, ids)))
assert "llama_cpp" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("User: hi\nAssistant:\n", "")


@pytest.mark.parametrize("model", ["tiny_without_space", "gemma"])
def test_text_comes_back_from_tokens(model: str, request: pytest.FixtureRequest) -> None:
    vocabulary: LlamaVocabulary = request.getfixturevalue(model)
    for text in ("hello there", "  two\n\n\nlines\t", "naïve — 東京 🦙", "nul \x00 inside \x00", "", "<b>html</b>"):
        assert text_of(vocabulary, vocabulary.tokenize(text, add_bos=False)) == text


def test_special_spellings_are_plain_text_unless_asked_for(tiny: LlamaVocabulary) -> None:
    user, end = (token.id for text in ("<|user|>", "<|end|>") for token in tiny.special_tokens if token.text == text)
    assert tiny.tokenize("<|user|><|end|>", add_bos=False, parse_special=True) == [user, end]
    plain = tiny.tokenize("<|user|><|end|>", add_bos=False)
    assert not {user, end} & set(plain)
    assert text_of(tiny, plain) == " <|user|><|end|>"


def test_the_bos_is_added_when_asked_for_and_no_end_token_ever(gemma: LlamaVocabulary) -> None:
    assert gemma.tokenize("hello", add_bos=True) == [gemma.bos, *gemma.tokenize("hello", add_bos=False)]
    assert gemma.tokenize("", add_bos=True) == [gemma.bos]
    assert gemma.tokenize("", add_bos=False) == []


def test_a_text_of_more_tokens_than_bytes_is_tokenised(tiny: LlamaVocabulary) -> None:
    """This vocabulary puts a space before the text after each special token."""
    text = "\n\nX" * 100 + "\n\n" + "~" * 50
    tokens = tiny.tokenize(text, add_bos=False)
    assert text_of(tiny, tokens) == "\n\n X" * 100 + "\n\n " + "~" * 50


def test_a_lone_surrogate_is_an_invalid_request(tiny: LlamaVocabulary) -> None:
    for vocabulary in (tiny, ByteVocabulary()):
        with pytest.raises(InvalidRequest, match=r"U\+D800 at character 2"):
            vocabulary.tokenize("ab\ud800")


def test_the_gguf_names_itself_and_its_special_tokens(tiny: LlamaVocabulary, gemma: LlamaVocabulary) -> None:
    assert (tiny.name, tiny.bos_text, tiny.eos_text) == ("tiny", "<s>", "</s>")
    assert (gemma.name, gemma.n_tokens, gemma.chat_template) == ("Gemma 3 270m", 262144, None)
    assert tiny.chat_template is not None and "add_generation_prompt" in tiny.chat_template
    ends = {token.text for token in tiny.special_tokens if tiny.is_end(token.id)}
    assert ends == {"</s>", "<|end|>"}
    assert not tiny.is_end(tiny.tokenize("the")[-1])


def test_no_token_is_longer_than_the_longest_piece(gemma: LlamaVocabulary) -> None:
    assert gemma.longest_piece_bytes == max(len(gemma.piece(token)) for token in range(gemma.n_tokens))


@pytest.mark.parametrize("model", ["tiny", "tiny_without_space", "gemma"])
@examples(20)
@given(
    words=st.lists(
        st.sampled_from(["word ", "\n", "\n\n", "\n\n\n", "  ", "     ", "x", "<b>", "</b>", "é"]), max_size=60
    )
)
def test_a_long_text_has_the_tokens_that_llama_cpp_gives_the_whole(
    model: str, words: list[str], request: pytest.FixtureRequest
) -> None:
    vocabulary: LlamaVocabulary = request.getfixturevalue(model)
    text = "".join(words) * 60
    assert vocabulary.tokenize(text, add_bos=False) == vocabulary._tokenize(text.encode(), False)


def test_the_time_for_a_text_does_not_grow_with_its_square(gemma: LlamaVocabulary) -> None:
    start = time.thread_time()
    assert len(gemma.tokenize("\n\n..<b>" * 20_000)) == 60_001
    assert time.thread_time() - start < 5


def test_threads_may_tokenise_at_the_same_time(gemma: LlamaVocabulary) -> None:
    texts = [f"text number {n} " * 50 for n in range(16)]
    alone = [gemma.tokenize(text) for text in texts]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(gemma.tokenize, texts)) == alone


def test_a_missing_file_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        LlamaVocabulary.open(tmp_path / "none.gguf")


def test_a_folder_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a folder"):
        LlamaVocabulary.open(tmp_path)


def test_a_file_that_may_not_be_read_is_a_model_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.gguf"
    path.write_bytes(b"GGUF")
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read anything

        def denied(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ModelError, match="Permission denied"):
        LlamaVocabulary.open(path)


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 something else"])
def test_what_is_no_gguf_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a GGUF file"):
        LlamaVocabulary.open(path)


@pytest.mark.parametrize(("kept_bytes", "reason"), [(4, "header"), (3000, "key-value"), (-5000, "incomplete")])
def test_a_truncated_gguf_says_what_is_missing_and_prints_nothing(
    tiny_path: Path, tmp_path: Path, kept_bytes: int, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_path.read_bytes()[:kept_bytes])
    with pytest.raises(ModelError, match=reason):
        LlamaVocabulary.open(path)
    assert capfd.readouterr() == ("", "")


def test_opening_prints_nothing_and_gives_the_log_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    LlamaVocabulary.open(write_tiny_gguf(tmp_path / "a.gguf")).close()
    assert capfd.readouterr() == ("", "")


def test_a_closed_vocabulary_refuses_instead_of_crashing(tiny_path: Path) -> None:
    vocabulary = LlamaVocabulary.open(tiny_path)
    vocabulary.close()
    vocabulary.close()
    with pytest.raises(AssertionError, match="closed"):
        vocabulary.tokenize("hello")
    assert vocabulary.piece(3) == b"\x00"
