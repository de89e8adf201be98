"""Tenants as a file, with a real daemon."""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.program import tenantctl


def test_a_file_makes_tenants_and_makes_them_again_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "team.toml"
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme", weight=2, uids=[1001], limits={"max_queued": 5}, billing={"name": "Acme Ltd"})
        daemon.add_tenant("globex", system_prompt="a policy")
        assert tenantctl(daemon, "budget", "set", "acme", "--monthly", "100.50", "--warn", "50").returncode == 0
        exported = tenantctl(daemon, "tenant", "export")
        assert exported.returncode == 0, exported.stderr
        file.write_text(exported.stdout)
        before = daemon.get("/admin/v1/tenants").json(), daemon.get("/admin/v1/tenants/globex").json()
        again = tenantctl(daemon, "tenant", "apply", str(file))
        assert (again.returncode, again.stdout, again.stderr) == (0, "", "nothing to change\n")

        changed = exported.stdout.replace("weight = 2.0", "weight = 3").replace("[tenants.globex", "[tenants.initech")
        file.write_text(changed)
        shown = tenantctl(daemon, "tenant", "apply", str(file), "--prune", "--dry-run")
        assert "- globex" in shown.stderr and "+ initech" in shown.stderr and "2 → 3" in shown.stderr
        assert "would have added 1, changed 1, removed 1" in shown.stderr and shown.stdout == ""
        assert (daemon.get("/admin/v1/tenants").json(), daemon.get("/admin/v1/tenants/globex").json()) == before

        asked = tenantctl(daemon, "tenant", "apply", str(file), "--prune")
        assert asked.returncode == 2 and "pass --yes" in asked.stderr
        assert tenantctl(daemon, "tenant", "apply", str(file)).stdout.startswith("initech td_")
        names = [tenant["name"] for tenant in daemon.get("/admin/v1/tenants").json()["tenants"]]
        assert sorted(names) == ["acme", "globex", "initech"]
        assert tenantctl(daemon, "tenant", "apply", "-", "--prune", "--yes", stdin=changed.encode()).returncode == 0
        assert tenantctl(daemon, "tenant", "export").stdout == changed.replace("weight = 3", "weight = 3.0")

        # the daemon refuses what only it can know, and says which tenant it is about
        refused = tenantctl(daemon, "tenant", "apply", "-", stdin=b"[tenants.acme.limits]\nreserved_slots = 99\n")
        assert refused.returncode == 1 and "acme: cannot reserve 99 slots" in refused.stderr, refused.stderr
        other = tenantctl(daemon, "tenant", "apply", "-", stdin=b'currency = "EUR"\n[tenants.acme]\n')
        assert "standard input, line 1: currency is EUR, but this daemon bills in USD" in other.stderr
        assert daemon.stop() == 0
