"""The socket file: who may use it, who owns it, and what is in its way."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tenantd.api.listener import check_state_folder, listen
from tenantd.errors import AlreadyRunning, ConfigError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("wanted", [0o660, 0o600, 0o666])
def test_the_socket_has_its_mode_and_a_new_folder_is_private(tmp_path: Path, wanted: int) -> None:
    before = os.umask(0o077)
    try:
        listener = listen(tmp_path / "new" / "t.sock", mode=wanted)
    finally:
        os.umask(before)
    assert mode(listener.path) == wanted
    assert mode(listener.path.parent) == 0o700
    listener.close()


def test_closing_removes_the_socket_and_lets_the_next_one_in(tmp_path: Path) -> None:
    path = tmp_path / "t.sock"
    listen(path, mode=0o600).close()
    assert not path.exists()
    listen(path, mode=0o600).close()


def test_a_second_daemon_is_refused_and_the_first_keeps_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "t.sock"
    first = listen(path, mode=0o600)
    said = rf"^a daemon \(pid {os.getpid()}\) is using socket {path}; `tenantctl status` shows it; stop it first: "
    with pytest.raises(AlreadyRunning, match=said):
        listen(path, mode=0o600)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    first.close()


def test_a_socket_left_by_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "t.sock"
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tenantd.api.listener import listen\n"
        "listener = listen(Path(sys.argv[1]), mode=0o600)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert path.is_socket()
    listener = listen(path, mode=0o600)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()


def test_another_programs_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(AlreadyRunning, match="another program"):
            listen(path, mode=0o600)
    assert path.exists()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_socket_is_never_removed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "t.sock"
    path.mkdir() if kind == "folder" else path.write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"):
        listen(path, mode=0o600)
    assert path.exists()


def test_a_path_too_long_for_linux_is_refused_with_the_limit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="107"):
        listen(tmp_path / ("x" * 120), mode=0o600)


def test_an_unknown_group_is_refused_and_nothing_stays_locked(tmp_path: Path) -> None:
    path = tmp_path / "t.sock"
    with pytest.raises(ConfigError, match="no such group"):
        listen(path, mode=0o600, group="no-such-group")
    listen(path, mode=0o600).close()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot create"):
        listen(tmp_path / "file" / "t.sock", mode=0o600)


def test_closing_leaves_a_socket_that_is_no_longer_ours(tmp_path: Path) -> None:
    path = tmp_path / "t.sock"
    listener = listen(path, mode=0o600)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        listener.close()
        assert path.exists()


@pytest.mark.parametrize("found", [0o770, 0o707, 0o777, 0o1777, 0o720])
def test_a_state_folder_that_others_may_write_is_refused_with_what_to_do(tmp_path: Path, found: int) -> None:
    os.chmod(tmp_path, found)
    with pytest.raises(ConfigError, match=f"chmod go-w {tmp_path}"):
        check_state_folder(tmp_path)
    os.chmod(tmp_path, 0o700)


@pytest.mark.parametrize("found", [0o755, 0o705, 0o701])
def test_a_state_folder_that_others_may_enter_is_a_warning(
    tmp_path: Path, found: int, caplog: pytest.LogCaptureFixture
) -> None:
    os.chmod(tmp_path, found)
    check_state_folder(tmp_path)
    assert f"chmod o-rwx {tmp_path}" in caplog.text


@pytest.mark.parametrize("found", [0o700, 0o750])
def test_a_state_folder_that_is_ones_own_is_fine(tmp_path: Path, found: int, caplog: pytest.LogCaptureFixture) -> None:
    os.chmod(tmp_path, found)
    check_state_folder(tmp_path)
    assert not caplog.text


def test_a_socket_where_everybody_may_put_another_is_refused(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    with pytest.raises(ConfigError, match=f"chmod o-w {tmp_path}"):
        listen(tmp_path / "t.sock", mode=0o600)
    os.chmod(tmp_path, 0o700)
    listen(tmp_path / "t.sock", mode=0o600).close()


@pytest.mark.parametrize("found", [0o770, 0o1777])
def test_a_socket_folder_that_some_others_may_write_is_a_warning(
    tmp_path: Path, found: int, caplog: pytest.LogCaptureFixture
) -> None:
    os.chmod(tmp_path, found)
    listen(tmp_path / "t.sock", mode=0o600).close()
    assert str(tmp_path) in caplog.text
