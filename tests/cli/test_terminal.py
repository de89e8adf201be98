"""The program on a real (pseudo) terminal: Ctrl-C, questions, escape sequences."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tenantd.config import load_config
from tests.cli.conftest import command
from tests.cli.fake_daemon import FakeDaemon


class Screen:
    """A terminal with a program on it; its standard error goes to a pipe, unless `whole`."""

    def __init__(self, arguments: tuple[str, ...], *, whole: bool = False) -> None:
        self._master, self._slave = os.openpty()  # kept open here, or there would be an end before the beginning
        name = os.ttyname(self._slave)
        # a session leader that opens a terminal gets it as its own: Ctrl-C then means SIGINT
        script = f"exec {shlex.join(command(*arguments))} <{name} >{name}" + (f" 2>{name}" if whole else "")
        self.program = subprocess.Popen(
            ["/bin/sh", "-c", script],
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_take_interrupts,
        )
        self.text = ""

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait_for(self, text: str) -> None:
        deadline_s = time.monotonic() + 120
        while text not in self.text:
            ready, _, _ = select.select([self._master], [], [], max(0, deadline_s - time.monotonic()))
            assert ready, f"not on the screen: {text!r}; there is {self.text!r}"
            if not self._read():
                raise AssertionError(f"the program ended without {text!r}: {self.text!r}")

    def _read(self) -> bool:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the program has closed the terminal
            return False
        self.text += data.decode()
        return bool(data)

    def end(self) -> tuple[int, str]:
        """Its exit status and what it said on standard error."""
        assert self.program.stderr is not None
        said = self.program.stderr.read().decode()
        code = self.program.wait(120)
        os.close(self._slave)
        self._slave = -1
        while self._read():
            pass
        return code, said

    def close(self) -> None:
        self.program.kill()
        self.program.wait()
        assert self.program.stderr is not None
        self.program.stderr.close()
        for fd in (self._master, self._slave):
            if fd >= 0:
                os.close(fd)


def _take_interrupts() -> None:
    """Tests that a shell runs in the background ignore SIGINT, and so would whatever they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("TERM", "xterm")

    @contextmanager
    def run(*arguments: str, whole: bool = False) -> Iterator[Screen]:
        screen = Screen(arguments, whole=whole)
        try:
            yield screen
        finally:
            screen.close()

    return run


def test_ctrl_c_cancels_the_request(terminal: Callable[..., Any], daemon: FakeDaemon) -> None:
    with terminal("run", "forever") as screen:
        screen.wait_for("begun")
        screen.type(b"\x03")
        code, said = screen.end()
    assert code == 130
    assert said == "cancelled\n"
    assert daemon.disconnected.wait(120)


def test_text_comes_while_it_is_generated_and_without_escapes(terminal: Callable[..., Any], daemon: FakeDaemon) -> None:
    with terminal("run", "escape") as screen:
        code, said = screen.end()
    assert (code, said) == (0, "")
    assert screen.text == "\ufffd[31mred\r\n"


def test_who_waits_sees_where_its_request_stands(terminal: Callable[..., Any], daemon: FakeDaemon) -> None:
    with terminal("run", "queued", whole=True) as screen:
        screen.wait_for("waiting: 3 in the queue, about 12 s")
        screen.wait_for("Hello, wörld\r\n")
        assert screen.end() == (0, "")


def test_run_without_a_prompt_does_not_wait_for_one(terminal: Callable[..., Any]) -> None:
    with terminal("run") as screen:
        code, said = screen.end()
    assert code == 2
    assert "PROMPT" in said


@pytest.mark.parametrize(("answer", "code", "left"), [(b"y\n", 0, []), (b"n\n", 1, ["acme"]), (b"\n", 1, ["acme"])])
def test_remove_asks_on_a_terminal(
    terminal: Callable[..., Any], daemon: FakeDaemon, answer: bytes, code: int, left: list[str]
) -> None:
    daemon.add("acme")
    with terminal("tenant", "remove", "acme") as screen:
        screen.type(answer)
        assert screen.end()[0] == code
    assert list(daemon.tenants) == left


def test_a_terminal_gets_a_table_with_colours(terminal: Callable[..., Any], daemon: FakeDaemon) -> None:
    daemon.add("acme")
    with terminal("tenant", "list") as screen:
        assert screen.end()[0] == 0
    assert "\x1b[1m" in screen.text
    assert "acme" in screen.text


@pytest.mark.parametrize(("answer", "default"), [(b"y", "on"), (b"n", "off"), (b"", "off")])
def test_init_asks_whether_to_cache_prompts_and_says_what_that_means(
    answer: bytes, default: str, terminal: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "asked.toml"
    with terminal("init", "--config", str(file), whole=True) as screen:
        screen.wait_for("every request is independent of earlier ones")
        screen.wait_for("Cache prompts? [y/N]: ")
        screen.type(answer + b"\r")
        assert screen.end()[0] == 0
    assert "Tenants never share it" in screen.text
    assert load_config(file).cache.default == default
    with terminal("init", "--config", str(file), whole=True) as screen:
        assert screen.end()[0] == 1
    assert "already exists" in screen.text and "Cache prompts" not in screen.text, "it asks nothing in vain"
