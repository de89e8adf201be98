"""What a new setting costs: in a copy of the sources one is added, and the files that took are counted."""

from __future__ import annotations

from pathlib import Path

from tests.support.copies import Copy

FIRST_STEP = """
import sys
from pathlib import Path

import tenantd
from tenantd.config import load_config
from tenantd.domain import Sampling
from tenantd.engine.__main__ import _scheduler
from tenantd.engine.fake import FakeCompute
from tenantd.engine.loop import Loop
from tenantd.fleet.supervisor import load_command
from tenantd.wire.frames import HEADER_BYTES, decode_inbox, frame
from tenantd.wire.messages import Inbox, SetSampling, Submit

assert Path(tenantd.__file__).is_relative_to(Path.cwd()), "the copy is what runs"
load = load_command(load_config(Path(sys.argv[1])))
load = decode_inbox(frame(Inbox([load]))[HEADER_BYTES:]).commands[0]
compute = FakeCompute(load)
loop = Loop(_scheduler(load, compute), compute)
loop.apply([SetSampling(1, Sampling()), Submit(request=1, tenant="a", prompt=[65] * 200, max_tokens=5, sampling=1)])
print(loop.step().progress[0].prefilled)
"""
"""Prompt tokens in the first step of an engine that was configured by a file."""


def test_a_scheduler_setting_takes_three_files_its_use_and_the_example_included(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy")
    copy.edit(
        "tenantd/wire/settings.py",
        "    prefill_chunk_tokens: int",
        '    probe_tokens: int = _setting(64, "A made-up portion.", ge=1, le=4096)\n    prefill_chunk_tokens: int',
    )
    copy.edit("tenantd/engine/passes.py", "min(most, PROBE_TOKENS)", "min(most, self._settings.probe_tokens)")
    copy.run("-m", "tenantctl", "init", "--config", "examples/tenantd.toml", "--force")

    config = tmp_path / "config.toml"
    for scheduler, first_tokens in (("", "64\n"), ("[scheduler]\nprobe_tokens = 9\n", "9\n")):
        config.write_text(f'[engine]\nbackend = "fake"\n{scheduler}')
        assert copy.run("-c", FIRST_STEP, str(config)) == first_tokens
    listed = (copy.root / "examples" / "tenantd.toml").read_text("utf-8")
    assert "# A made-up portion. From 1 to 4096.\nprobe_tokens = 64\n" in listed
    assert len(copy.changed()) <= 3, copy.changed()
