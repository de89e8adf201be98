"""Who takes a removed tenant's name sees, pays for and waits for nothing of what it left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.support.daemon import Daemon, wait_until


def test_a_name_is_free_once_the_removed_tenants_requests_have_ended(tmp_path: Path) -> None:
    limits = {"requests_per_minute": 100, "max_queued": 0}
    with Daemon(tmp_path, engine={"fake_step_micros": 20_000, "slots": 2}) as daemon:
        old = daemon.add_tenant("acme")
        streams = [daemon.stream("acme", max_tokens=4000, ignore_eos=True) for _ in range(2)]
        for stream in streams:
            stream.begun(2)
        engine = daemon.engine_pid()
        os.kill(engine, signal.SIGSTOP)  # it confirms no end
        try:
            assert daemon.request("DELETE", "/admin/v1/tenants/acme").status_code == 200
            refused = daemon.post("/admin/v1/tenants", {"name": "acme", "limits": limits})
            assert (refused.status_code, refused.headers["retry-after"]) == (409, "1"), refused.text
            assert "still ending" in refused.json()["error"]["message"]
        finally:
            os.kill(engine, signal.SIGCONT)
        answer = wait_until(
            lambda: (
                added
                if (added := daemon.post("/admin/v1/tenants", {"name": "acme", "limits": limits})).is_success
                else None
            ),
            "the end of the old requests",
        )
        headers = {"Authorization": f"Bearer {answer.json()['key']}"}
        assert daemon.get("/v1/queue", headers=headers).json() == {"waiting": []}
        assert 'tenantd_requests_total{state="cancelled",tenant="acme"}' not in daemon.get("/metrics").text
        assert daemon.post("/v1/completions", {"prompt": "a", "max_tokens": 2}, headers=headers).status_code == 200
        assert daemon.get("/v1/models", headers={"Authorization": f"Bearer {old}"}).status_code == 401
