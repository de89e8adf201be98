"""What a model's file says of itself, read without llama.cpp; and llama.cpp asked in a process of its own."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.config import Config
from tenantd.errors import ModelError
from tenantd.fleet.supervisor import load_command
from tenantd.llamacpp import trial
from tenantd.llamacpp.gguf import MAGIC, NotGguf
from tenantd.llamacpp.header import read_header
from tenantd.llamacpp.trial import Option, look_at_machine, plan_option
from tests.support.examples import examples
from tests.support.tiny_bert import write_tiny_bert
from tests.support.tiny_gguf import write_tiny_gguf, write_tiny_lora

MOST_S = 5


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def start(tensors: int, keys: int, version: int = 3) -> bytes:
    return MAGIC + struct.pack("<IQQ", version, tensors, keys)


def a_tensor(dimensions: int, offset: int) -> bytes:
    return text(b"x") + struct.pack(f"<I{dimensions}QIQ", dimensions, *[8] * dimensions, 0, offset)


def test_a_model_is_described(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", context_length=4096)
    header = read_header(path)
    assert (header.name, header.kind, header.architecture, header.quantisation) == ("tiny", "model", "llama", "Q8_0")
    assert (header.context_tokens, header.has_chat_template, header.trouble) == (4096, True, "")
    assert header.size_bytes == path.stat().st_size
    assert header.parameters == sum(int(tensor.n_elements) for tensor in gguf.GGUFReader(path).tensors)
    assert not read_header(write_tiny_gguf(tmp_path / "base.gguf", chat_template=None)).has_chat_template


def test_what_is_no_model_to_serve_says_what_it_is(tmp_path: Path) -> None:
    assert "is an adapter" in read_header(write_tiny_lora(tmp_path / "lora.gguf")).trouble
    assert "makes embeddings" in read_header(write_tiny_bert(tmp_path / "bert.gguf")).trouble
    assert "ranks documents" in read_header(write_tiny_bert(tmp_path / "rank.gguf", ranks=True)).trouble
    (tmp_path / "words.gguf").write_bytes(start(0, 0))
    assert "no weights" in read_header(tmp_path / "words.gguf").trouble


def part(folder: Path, number: int, of: int) -> Path:
    path = folder / f"big-{number:05d}-of-{of:05d}.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint16("split.no", number - 1)
    writer.add_uint16("split.count", of)
    writer.add_tensor(f"x{number}", np.ones(10, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_model_in_several_files_is_one(tmp_path: Path) -> None:
    first, second = part(tmp_path, 1, 2), part(tmp_path, 2, 2)
    header = read_header(first)
    assert (header.parts, header.parameters, header.trouble) == (2, 20, "")
    assert header.size_bytes == first.stat().st_size + second.stat().st_size
    assert read_header(second).trouble == "is part 2 of 2; choose the first part"
    second.unlink()
    with pytest.raises(NotGguf, match=r"part 2 of 2 cannot be used: .*no such file"):
        read_header(first)


def named_pipe(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (named_pipe, "not a regular file"),
        (unix_socket, "not a regular file"),
        (lambda path: path.touch(), "it is empty"),
        (lambda path: path.symlink_to("/proc/self/status"), "it is empty"),
    ],
)
def test_what_is_no_file_is_refused_and_never_waited_for(
    tmp_path: Path, make: Callable[[Path], object], says: str
) -> None:
    path = tmp_path / "x.gguf"
    make(path)
    with pytest.raises(NotGguf, match=says):
        read_header(path)


HUGE = 1 << 60
BAD_HEADERS = {
    "an old version": (start(0, 0, version=1), "a GGUF version"),
    "only a version": (MAGIC + b"\3", "truncated"),
    "too many tensors": (start(HUGE, 0), "more than any model"),
    "too many keys": (start(0, HUGE), "more than any model"),
    "a long key": (start(0, 1) + struct.pack("<Q", HUGE), "a text of 1152921504606846976 bytes"),
    "a long text": (start(0, 1) + text(b"x") + struct.pack("<IQ", 8, 1 << 20), "truncated"),
    "a text longer than any": (start(0, 1) + text(b"x") + struct.pack("<IQ", 8, 1 << 27), "a text of 134217728 bytes"),
    "many numbers": (start(0, 1) + text(b"x") + struct.pack("<IIQ", 9, 4, HUGE), "longer than that of any model"),
    "many texts": (start(0, 1) + text(b"x") + struct.pack("<IIQ", 9, 8, HUGE), "longer than that of any model"),
    "a list in a list": (start(0, 1) + text(b"x") + struct.pack("<IIQ", 9, 9, 1), "a value of type 9"),
    "no such type": (start(0, 1) + text(b"x") + struct.pack("<I", 99), "a value of type 99"),
    "no such shape": (start(1, 0) + a_tensor(5, 0), "a tensor of 5 dimensions"),
    "no weights": (start(1, 0) + a_tensor(1, 0), "download it again"),
    "weights beyond the end": (start(1, 0) + a_tensor(1, HUGE) + bytes(100), "download it again"),
    "too many parts": (
        start(0, 1) + text(b"split.count") + struct.pack("<IQ", 10, HUGE),
        "one of 1152921504606846976 parts",
    ),
}


@pytest.mark.parametrize(("content", "says"), BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_a_bad_header_is_refused_with_its_reason_at_once(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    began_s = time.process_time()
    with pytest.raises(NotGguf, match=says) as refused:
        read_header(path)
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)
    assert time.process_time() - began_s < MOST_S


def test_a_large_file_of_empty_texts_is_read_for_a_moment_only(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    with path.open("wb") as file:
        file.write(start(0, 1) + text(b"x") + struct.pack("<IIQ", 9, 8, 1 << 22))
        file.truncate(40 << 30)
    began_s = time.process_time()
    header = read_header(path)
    assert header.size_bytes == 40 << 30
    assert time.process_time() - began_s < MOST_S


def test_many_short_texts_are_not_each_read_with_all_that_follows(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    with path.open("wb") as file:
        file.write(start(20_000, 20_000))
        file.write((text(b"x") + struct.pack("<IIQ", 9, 8, 1) + text(b"y")) * 20_000)
        file.truncate(1 << 28)
    began_s = time.process_time()
    assert read_header(path).parameters == 20_000
    assert time.process_time() - began_s < MOST_S


@given(content=st.binary(max_size=200), tensors=st.integers(0, 2), keys=st.integers(0, 2))
@examples(300)
def test_rubbish_is_read_or_refused_and_never_an_error_of_another_kind(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, tensors: int, keys: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "rubbish.gguf"
    path.write_bytes(start(tensors, keys) + content)
    try:
        read_header(path)
    except NotGguf as e:
        assert str(e).startswith(f"{path}: ")


# ---- llama.cpp in a process of its own ----------------------------------------------------------------------------


def option(path: Path, slots: int, enough_tokens: int = 0, needs_gpu: bool = False) -> Option:
    load = msgspec.structs.replace(load_command(Config()), model_path=str(path), slots=slots, gpu_layers=0)
    return Option(load=load, enough_tokens=enough_tokens, needs_gpu=needs_gpu)


def test_the_first_option_with_enough_context_is_taken(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", context_length=2048)
    chosen, plan = plan_option([option(path, 8, needs_gpu=True), option(path, 300), option(path, 2, 1024)])
    assert (chosen.load.slots, plan.context_tokens) == (2, 2048)
    with pytest.raises(ModelError, match="at most 256 sequences"):
        plan_option([option(path, 300)])


def test_a_file_that_llama_cpp_refuses_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes()[:-1])
    with pytest.raises(ModelError, match="is corrupted or incomplete"):
        plan_option([option(path, 1)])


def test_what_ends_or_holds_up_llama_cpp_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"
    monkeypatch.setattr(trial.sys, "executable", str(fake))
    for script, says in (
        ("echo 'x.cpp:1: GGML_ASSERT(n > 0) failed' >&2; echo more >&2; kill -ABRT $$", "SIGABRT.*GGML_ASSERT"),
        ("exit 3", "failed with 3: no output"),
        ("exec tail -f /dev/null", "did not answer within 1 s"),
    ):
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o755)
        with pytest.raises(ModelError, match=says):
            look_at_machine(1 if "tail" in script else 60)
