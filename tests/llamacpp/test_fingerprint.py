"""What tells model files apart."""

from __future__ import annotations

import re
from pathlib import Path

from tenantd.llamacpp.fingerprint import fingerprint


def test_it_is_the_same_for_the_same_and_another_for_another(tmp_path: Path) -> None:
    path, content = tmp_path / "m.gguf", bytes(range(256)) * 20_000
    path.write_bytes(content)
    own = fingerprint(path, "b1")
    assert re.fullmatch(r"fp_[0-9a-f]{12}", own)
    copy = tmp_path / "copy"
    copy.write_bytes(content)
    assert fingerprint(copy, "b1") == own
    assert fingerprint(path, "b2") != own
    for changed in (b"x" + content[1:], content[:-1] + b"x", content + b"x", content[:-1]):
        copy.write_bytes(changed)
        assert fingerprint(copy, "b1") != own


def test_a_small_file_has_one_too(tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"")
    assert fingerprint(path, "b1").startswith("fp_")
