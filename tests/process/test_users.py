"""Other users of the machine: each is who the kernel says, and nobody else."""

from __future__ import annotations

import grp
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.program import as_stranger, estrange, stranger_uid, tenantctl


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that other users may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="td-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def test_another_user_is_who_the_kernel_says_and_nobody_else(open_folder: Path) -> None:
    with Daemon(open_folder, server={"socket_mode": "0666"}) as daemon:
        key = daemon.add_tenant("acme")
        daemon.add_tenant("globex")
        estrange(daemon)
        stranger = as_stranger(daemon, "run", "hi")
        assert (stranger.returncode, stranger.stdout) == (77, ""), stranger.stderr
        assert as_stranger(daemon, "run", "hi", TENANTD_API_KEY=key).returncode == 0
        own = as_stranger(daemon, "status", TENANTD_API_KEY=key)
        assert own.returncode == 0 and "acme (active)" in own.stdout and "globex" not in own.stdout, own.stderr
        for command in (["tenant", "list"], ["tenant", "add", "own"]):
            done = as_stranger(daemon, *command, TENANTD_API_KEY=key)
            assert (done.returncode, done.stdout) == (77, ""), command
            assert "this command needs an administrator, but TENANTD_API_KEY is the key of a tenant" in done.stderr
        done = as_stranger(daemon, "status")
        assert (done.returncode, done.stdout) == (77, "")
        assert "this user belongs to no tenant; set TENANTD_API_KEY to an API key" in done.stderr
        done = as_stranger(daemon, "tenant", "list")
        assert (done.returncode, done.stdout) == (77, "")
        assert "only root, the user that runs tenantd and server.admin_group can administer it" in done.stderr
        assert [row["tenant"] for row in daemon.rows()] == ["acme"]
        assert daemon.stop() == 0


def test_a_user_whom_a_tenant_lists_acts_for_it_and_for_no_other(open_folder: Path) -> None:
    with Daemon(open_folder, server={"socket_mode": "0666"}) as daemon:
        daemon.add_tenant("acme", uids=[stranger_uid()])
        daemon.add_tenant("globex")
        estrange(daemon)
        assert as_stranger(daemon, "run", "--tenant", "acme", "hi").returncode == 0
        other = as_stranger(daemon, "run", "--tenant", "globex", "hi")
        assert (other.returncode, other.stdout) == (77, "")
        assert "may not act for tenant 'globex'" in other.stderr
        assert as_stranger(daemon, "tenant", "list").returncode == 77
        daemon.socket.chmod(0)
        shut_out = as_stranger(daemon, "run", "hi")
        assert (shut_out.returncode, shut_out.stdout) == (77, "")
        assert "join the group of the socket" in shut_out.stderr
        daemon.socket.chmod(0o666)
        assert as_stranger(daemon, "run", "hi").returncode == 0
        assert [row["tenant"] for row in daemon.rows()] == ["acme"] * 2
        assert daemon.stop() == 0


def test_a_key_that_administers_does_so_for_any_user_until_it_is_revoked(open_folder: Path) -> None:
    with Daemon(open_folder, server={"socket_mode": "0666"}) as daemon:
        daemon.add_tenant("acme")
        made = tenantctl(daemon, "key", "create", "--admin", "--label", "deploy", "--expires", "1h")
        assert made.returncode == 0, made.stderr
        admin = made.stdout.strip()
        estrange(daemon)
        added = as_stranger(daemon, "key", "create", "acme", "--scope", "read", TENANTD_API_KEY=admin)
        assert added.returncode == 0, added.stderr
        listed = as_stranger(daemon, "key", "list", "--admin", TENANTD_API_KEY=admin).stdout.splitlines()
        assert re.search(r" admin +in 5\d min +\d+ (s|min) ago +deploy$", listed[1]), listed
        assert as_stranger(daemon, "run", "--tenant", "acme", "hi", TENANTD_API_KEY=admin).returncode == 0
        nameless = as_stranger(daemon, "run", "hi", TENANTD_API_KEY=admin)
        assert (nameless.returncode, "which tenant? pass --tenant NAME" in nameless.stderr) == (2, True)
        reads = as_stranger(daemon, "run", "hi", TENANTD_API_KEY=added.stdout.strip())
        assert (reads.returncode, reads.stdout) == (77, "")
        assert "this needs an API key with the scope run; this one has only: read" in reads.stderr
        rotated = as_stranger(daemon, "key", "rotate", listed[1].split()[0], "--grace", "0", TENANTD_API_KEY=admin)
        assert rotated.returncode == 0 and "is revoked; created administrator key" in rotated.stderr
        for key, code in ((admin, 77), (rotated.stdout.strip(), 0)):
            assert as_stranger(daemon, "tenant", "list", TENANTD_API_KEY=key).returncode == code
        assert [row["tenant"] for row in daemon.rows()] == ["acme"]
        assert daemon.stop() == 0


def test_members_of_the_admin_group_administer_and_the_trail_says_who(open_folder: Path) -> None:
    gid = 1 if os.geteuid() == 0 else os.getegid()
    group = grp.getgrgid(gid).gr_name
    with Daemon(open_folder, server={"socket_mode": "0666", "admin_group": group}) as daemon:
        daemon.add_tenant("acme")
        estrange(daemon)
        if os.geteuid() == 0:
            assert as_stranger(daemon, "tenant", "list").returncode == 77
        added = as_stranger(daemon, "tenant", "add", "globex", STRANGER_GIDS=str(gid))
        assert added.returncode == 0, added.stderr
        listed = as_stranger(daemon, "tenant", "list", STRANGER_GIDS=str(gid))
        assert "globex" in listed.stdout
        entry = daemon.get("/admin/v1/audit", params={"tenant": "globex"}).json()["entries"][-1]
        by = entry["detail"]["by"]
        assert by["uid"] == stranger_uid() and by["pid"] > 1, entry
        if os.geteuid() == 0:  # a process that has the group of a user who has not
            paged = as_stranger(daemon, "web", STRANGER_GIDS=str(gid))
            assert (paged.returncode, "no longer in server.admin_group" in paged.stderr) == (77, True), paged.stderr
        # a key is who asks, whoever shows it
        assert as_stranger(daemon, "tenant", "list", STRANGER_GIDS=str(gid), TENANTD_API_KEY="td_x").returncode == 77
        assert daemon.stop() == 0
