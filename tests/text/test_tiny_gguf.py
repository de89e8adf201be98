from __future__ import annotations

from pathlib import Path

import llama_cpp
import pytest

from tenantd.llamacpp.log import only_errors
from tenantd.text.vocabulary import LlamaVocabulary
from tests.support.tiny_gguf import write_tiny_gguf


def test_the_tiny_model_is_small_and_always_the_same(tmp_path: Path) -> None:
    one, same, other = (write_tiny_gguf(tmp_path / f"{n}.gguf", seed=n // 2).read_bytes() for n in range(3))
    assert one == same != other
    assert len(one) < 200_000


@pytest.mark.parametrize("template", [None, "{{ messages[0].content }}"])
def test_the_tiny_model_has_the_template_it_is_given(template: str | None, tmp_path: Path) -> None:
    vocabulary = LlamaVocabulary.open(write_tiny_gguf(tmp_path / "model.gguf", chat_template=template))
    assert vocabulary.chat_template == template
    vocabulary.close()


def test_llama_cpp_decodes_the_tiny_model(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "model.gguf", context_length=512)
    with only_errors() as errors:
        model = llama_cpp.llama_model_load_from_file(bytes(path), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = 64, 1, 1
        context = llama_cpp.llama_init_from_model(model, params)
        assert llama_cpp.llama_model_n_ctx_train(model) == 512
        tokens = [1, 303, 286]
        greedy: list[int] = []
        for _ in range(8):
            batch = llama_cpp.llama_batch_get_one((llama_cpp.llama_token * len(tokens))(*tokens), len(tokens))
            assert llama_cpp.llama_decode(context, batch) == 0
            logits = llama_cpp.llama_get_logits_ith(context, -1)
            tokens = [max(range(520), key=lambda token: logits[token])]
            greedy += tokens
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)
        assert errors == []
    assert len(set(greedy)) > 1, "it does not repeat one token"
