"""What a new setting or limit costs: in a copy of the sources one is added, and the files that took are counted."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tenantctl.shells.scripts import FILES
from tenantd.limits import LIMITS, MOST, Limit
from tests.support.copies import ROOT, Copy

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
    copy.edit("tenantd/engine/slack.py", "min(most, PROBE_TOKENS)", "min(most, self._settings.probe_tokens)")
    copy.run("-m", "tenantctl", "init", "--config", "examples/tenantd.toml", "--force")

    config = tmp_path / "config.toml"
    for scheduler, first_tokens in (("", "64\n"), ("[scheduler]\nprobe_tokens = 9\n", "9\n")):
        config.write_text(f'[engine]\nbackend = "fake"\n{scheduler}')
        assert copy.run("-c", FIRST_STEP, str(config)) == first_tokens
    listed = (copy.root / "examples" / "tenantd.toml").read_text("utf-8")
    assert "# A made-up portion. From 1 to 4096.\nprobe_tokens = 64\n" in listed
    assert len(copy.changed()) <= 3, copy.changed()


# -- limits

OF_TODAY = {
    "max_concurrent": "--max-concurrent",
    "max_queued": "--max-queued",
    "max_tokens_per_request": "--max-tokens-per-request",
    "max_context_tokens": "--max-context-tokens",
    "requests_per_minute": "--requests-per-minute",
    "tokens_per_minute": "--tokens-per-minute",
    "reserved_slots": "--reserved-slots",
    "on_limit": "--on-limit",
    "max_wait_s": "--max-wait",
}


def test_limits_keep_their_names_and_options() -> None:
    assert {name: limit.option for name, limit in LIMITS.items()}.items() >= OF_TODAY.items()


def in_file(limit: Limit) -> str:
    """How docs/tenants.md writes its default in [limits]."""
    if limit.no_default is not None:
        return "no default"
    default = json.dumps(limit.default)
    return f"`{limit.name}`: none" if limit.default is None else f"`{limit.name} = {default}`"


def test_the_documents_have_every_limit_as_it_is_declared() -> None:
    text = (ROOT / "docs" / "tenants.md").read_text("utf-8")
    rows = re.findall(r"^(\| `--\S+` \| .+? \| .+? \|) \S.* \|$", text, re.MULTILINE)
    assert rows == [f"| `{limit.option}` | {in_file(limit)} | {limit.help} |" for limit in LIMITS.values()]
    assert f"a whole number from 0 to {MOST}" in text


DECLARED = """\
    max_prompt_tokens: Annotated[
        int | None, Limit("Maximum prompt tokens per request.", example=2048, at_zero=BLOCKS)
    ] = None
"""
ENFORCED = """\
    if limits.max_prompt_tokens is not None and prompt_tokens > limits.max_prompt_tokens:
        raise InvalidRequest(f"the prompt may have {limits.max_prompt_tokens} tokens", param="prompt")
"""
DOCUMENTED = "| `--max-prompt-tokens` | `max_prompt_tokens`: none | Maximum prompt tokens per request. | 400 |\n"
TRIED = """
import json, sys
from pathlib import Path
import tenantd
from tenantd.config import parse_config
from tenantd.errors import ConfigError
from tests.support.daemon import Daemon
from tests.support.program import tenantctl

assert Path(tenantd.__file__).is_relative_to(Path.cwd()), "the copy is what runs"
tried = {}
with Daemon(Path(sys.argv[1]), limits={"max_prompt_tokens": 7}) as daemon:
    def run(*arguments):
        done = tenantctl(daemon, "tenant", *arguments, TERMINAL_WIDTH="200", COLUMNS="200")
        return done.stdout if done.returncode == 0 else done.returncode

    def values(answer):
        tenant = json.loads(answer)["tenant"]
        return [tenant[which]["max_prompt_tokens"] for which in ("limits", "effective_limits")]

    def body(value):
        answer = daemon.request("PATCH", "/admin/v1/tenants/acme", json={"limits": {"max_prompt_tokens": value}})
        return values(answer.text) if answer.status_code == 200 else answer.json()["error"]["param"]

    tried["help"] = [run(command, "--help") for command in ("add", "set")]
    tried["added"] = values(run("add", "acme", "--max-prompt-tokens", "3", "--json"))
    tried["refused"] = [daemon.complete("acme", [5] * n, max_tokens=1).status_code for n in (3, 4)]
    tried["default"] = values(run("set", "acme", "--max-prompt-tokens", "default", "--json"))
    tried["shown"] = run("show", "acme")
    tried["default refused"] = [daemon.complete("acme", [5] * n, max_tokens=1).status_code for n in (7, 8)]
    tried["lifted"] = values(run("set", "acme", "--max-prompt-tokens", "none", "--json"))
    tried["misused"] = run("set", "acme", "--max-prompt-tokens", "many")
    tried["bodies"] = [body(value) for value in (2**31, None, -1, 2**31 + 1, 1.5, "some")]
    tried["blocked"] = body(0), daemon.complete("acme", [5], max_tokens=1).status_code
try:
    parse_config({"limits": {"max_prompt_tokens": -1}}, "file")
except ConfigError as e:
    tried["file"] = str(e)
print(json.dumps(tried))
"""
WOULD_MISS_A_FILE = (
    "tests/test_declared_once.py::test_the_documents_have_every_limit_as_it_is_declared",
    "tests/cli/test_init.py::test_the_example_is_what_init_writes",
    "tests/cli/test_completions.py::test_the_scripts_are_those_of_the_commands",
    "tests/cli/test_tenants.py",
    "tests/tenancy/test_tenants.py",
    "tests/api/admin/test_routes.py::test_a_tenant_is_added_with_a_key_that_works",
)


def test_a_limit_takes_three_files_by_hand_its_use_and_the_table_included(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy")
    for path, before, text in (
        ("tenantd/limits.py", "    max_context_tokens: Annotated[", DECLARED),
        ("tenantd/serving/admission.py", "    if limits.tokens_per_minute == 1:", ENFORCED),
        ("docs/tenants.md", "| `--max-context-tokens` |", DOCUMENTED),
    ):
        copy.edit(path, before, text + before)
    by_hand = copy.changed()
    copy.run("-m", "tenantctl", "init", "--config", "examples/tenantd.toml", "--force")
    for shell, name in FILES.items():
        (copy.root / "completions" / name).write_text(copy.run("-m", "tenantctl", "completion", shell), "utf-8")
    written = sorted(set(copy.changed()) - set(by_hand))

    tried = json.loads(copy.run("-c", TRIED, str(tmp_path)))
    for text in tried["help"]:
        assert re.search(r"--max-prompt-tokens +N\|none\|default +Maximum prompt tokens per request\.", text)
    assert tried["added"] == [3, 3] and tried["refused"] == [200, 400]
    assert tried["default"] == [None, 7] and tried["default refused"] == [200, 400]
    assert re.search(r"^max prompt tokens +7 \(default\)$", tried["shown"], re.MULTILINE)
    assert tried["lifted"] == ["none", None] and tried["misused"] == 2
    assert tried["bodies"] == [[2**31, 2**31], [None, 7], *["limits.max_prompt_tokens"] * 4]
    assert tried["blocked"] == [[0, 0], 403]
    assert "limits.max_prompt_tokens = -1: " in tried["file"]
    copy.run("-m", "pytest", "-q", "-p", "no:cacheprovider", *WOULD_MISS_A_FILE)

    print(f"by hand: {by_hand}; by commands: {written}")
    assert len(by_hand) <= 4, by_hand
    assert written == [*(f"completions/{name}" for name in sorted(FILES.values())), "examples/tenantd.toml"]
