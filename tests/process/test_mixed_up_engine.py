"""A real engine process that mixes up two tenants' answers once: what the daemon does about it, as clients see it."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.daemon import wait_until
from tests.support.hearing.record import HeardDaemon
from tests.support.network import logged

BROKEN = """
import os
import runpy
import msgspec
from pathlib import Path
from tenantd.engine.scheduler import Scheduler

runpy.run_path(os.environ["HEARING"], run_name="sitecustomize")
once, commit = Path(os.environ["MIXED_UP_ONCE"]), Scheduler.commit

def mixed_up(self, plan, results, now_s, leave):
    step = commit(self, plan, results, now_s, leave)
    if len(step.progress) < 2 or step.number < 40 or once.exists():
        return step
    once.touch()
    first, second, *rest = step.progress
    change = msgspec.structs.replace
    swapped = [change(first, request=second.request), change(second, request=first.request)]
    return change(step, progress=[*swapped, *rest])

Scheduler.commit = mixed_up
"""


def test_two_tenants_whose_answers_an_engine_mixes_up_get_nothing_of_each_other(tmp_path: Path) -> None:
    daemon = HeardDaemon(tmp_path, engine={"fake_step_micros": 3000})
    hearing = Path(daemon.environment["PYTHONPATH"].split(os.pathsep)[0]) / "sitecustomize.py"
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(BROKEN)
    daemon.environment |= {"PYTHONPATH": str(broken), "HEARING": str(hearing), "MIXED_UP_ONCE": str(tmp_path / "once")}
    with daemon:
        prompts = {"acme": "1", "globex": "2"}
        for tenant in prompts:
            daemon.add_tenant(tenant)
        streams = {t: daemon.stream(t, p, max_tokens=600, ignore_eos=True) for t, p in prompts.items()}
        for stream in streams.values():
            stream.join()
        assert (tmp_path / "once").exists()
        expected = {
            t: daemon.complete(t, p, max_tokens=600, ignore_eos=True) for t, p in (("acme", "1"), ("globex", "2"))
        }
        [broken_event] = wait_until(lambda: daemon.heard("binding_broken"), "the event")
        victim = broken_event["tenant"]
        other = "globex" if victim == "acme" else "acme"
        whole = {tenant: answer.json()["choices"][0]["text"] for tenant, answer in expected.items()}
        assert streams[other].done and streams[other].text == whole[other]
        assert not streams[victim].done and "mixed up" in str(streams[victim].error)
        assert whole[victim].startswith(streams[victim].text) and streams[victim].tokens < 600
        assert (broken_event["breach"], broken_event["request_id"]) == ("engine", streams[victim].request_id)
        assert "tenantd_broken_bindings_total 1.0" in daemon.get("/metrics").text
        assert daemon.status()["engine_restarts"] == 1
        states = {row["tenant"]: row["state"] for row in daemon.rows()[:2]}
        assert states == {victim: "failed", other: "length"}
        logged(daemon, "was not its own (engine); the engine is restarted")
        assert daemon.stop() == 0
