"""What a file says of itself before llama.cpp sees it."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.llamacpp.gguf import MAGIC, MAX_READ_BYTES, NotGguf, check_adapter
from tests.support.examples import examples
from tests.support.tiny_gguf import write_tiny_gguf, write_tiny_lora


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, value: str) -> bytes:
    return text(key) + struct.pack("<I", 8) + text(value)


def header(keys: int, version: int = 3) -> bytes:
    return MAGIC + struct.pack("<IQQ", version, 0, keys)


def write(folder: Path, content: bytes) -> Path:
    path = folder / "file.gguf"
    path.write_bytes(content)
    return path


def test_a_lora_adapter_passes(tmp_path: Path) -> None:
    check_adapter(write_tiny_lora(tmp_path / "lora.gguf"))


def test_the_beginning_of_another_file_is_shown_as_a_text(tmp_path: Path) -> None:
    for content, shown in ((b"root:x:0:0", "'root'"), (b"\x7fELF", r"'\x7fELF'")):
        with pytest.raises(NotGguf) as refused:
            check_adapter(write(tmp_path, content))
        assert str(refused.value).endswith(f"not a GGUF file (it starts with {shown} instead of 'GGUF')")


def test_what_to_do_about_weights_of_another_kind_or_half_a_file_is_said(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    (tmp_path / "empty").mkdir()
    for path, cure in (
        (weights, "convert its folder with llama.cpp's convert_hf_to_gguf.py"),
        (write(tmp_path / "empty", b""), "(it is empty); download it again"),
        (write(tmp_path, header(3)), "truncated: it ends within its metadata; download it again"),
    ):
        with pytest.raises(NotGguf) as refused:
            check_adapter(path)
        assert str(refused.value).endswith(cure)


def test_its_type_may_come_after_every_kind_of_value(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "late.gguf", "llama")
    for kind in (
        "uint8",
        "int8",
        "uint16",
        "int16",
        "uint32",
        "int32",
        "float32",
        "uint64",
        "int64",
        "float64",
        "bool",
    ):
        getattr(writer, f"add_{kind}")(f"x.{kind}", 1)
    writer.add_array("x.numbers", [1, 2, 3])
    writer.add_array("x.texts", ["a", "bc", ""])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    check_adapter(tmp_path / "late.gguf")


def test_a_whole_model_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(NotGguf, match="is a model, not a LoRA adapter"):
        check_adapter(write_tiny_gguf(tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (header(0), "is a model, not"),  # a model from before there were types
        (header(1) + pair("general.type", "mmproj"), "is a mmproj, not"),
        (header(2) + pair("general.type", "adapter") + pair("adapter.type", "control_vector"), "not a LoRA adapter"),
        (header(1) + pair("general.type", "adapter"), "not a LoRA adapter"),
        (header(1, version=1), "a GGUF version"),
        (header(1) + text("x") + struct.pack("<I", 99), "a value of type 99"),
        (header(1) + text("x")[:-1], "truncated"),
        (header(1 << 60), "truncated"),
        (header(1) + struct.pack("<Q", 1 << 60), "a text of 1152921504606846976 bytes"),
        (header(1) + text("x") + struct.pack("<IIQ", 9, 8, 1 << 60), "looks like a whole model"),
        (header(1) + text("x") + struct.pack("<IIQ", 9, 0, 1 << 60), "looks like a whole model"),
        (header(1) + text("x") + struct.pack("<IIQ", 9, 9, 1), "a value of type 9"),
        (header(2) + pair("x", "y" * MAX_READ_BYTES) + pair("general.type", "adapter"), "looks like a whole model"),
    ],
)
def test_what_is_no_adapter_is_refused_with_the_reason(tmp_path: Path, content: bytes, says: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(NotGguf, match=says) as refused:
        check_adapter(path)
    assert str(refused.value).startswith(f"{path}: ")


def test_a_file_made_to_be_long_to_read_is_read_for_a_moment_only(tmp_path: Path) -> None:
    """A list of 2^60 empty texts, and enough of them in the file."""
    path = write(tmp_path, header(1) + text("x") + struct.pack("<IIQ", 9, 8, 1 << 60) + bytes(8 * MAX_READ_BYTES))
    began_s = time.process_time()
    with pytest.raises(NotGguf, match="looks like a whole model"):
        check_adapter(path)
    assert time.process_time() - began_s < 1


@given(content=st.binary(max_size=200))
@examples(300)
def test_rubbish_is_refused_and_never_an_error_of_another_kind(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = write(tmp_path_factory.getbasetemp(), header(3) + content)
    with pytest.raises(NotGguf):
        check_adapter(path)
