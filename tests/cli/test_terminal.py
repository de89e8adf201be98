"""The program on a real (pseudo) terminal: Ctrl-C, questions, escape sequences."""

from __future__ import annotations

import codecs
import os
import select
import shlex
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tenantd.config import load_config
from tests.cli.conftest import command
from tests.cli.fake_daemon import FakeDaemon
from tests.support.tiny_gguf import write_tiny_gguf


class Screen:
    """A terminal with a program on it; its standard error goes to a pipe, unless `whole`. With 0 columns, nobody knows
    how wide it is."""

    def __init__(self, arguments: tuple[str, ...], *, whole: bool = False, columns: int = 0) -> None:
        self._master, self._slave = os.openpty()  # kept open here, or there would be an end before the beginning
        termios.tcsetwinsize(self._slave, (24 if columns else 0, columns))
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
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # what is read may end within a character

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def interrupt(self, text: str) -> None:
        """Press Ctrl-C until `text` is there. Python's line editor misses a signal that comes just before it waits for
        the next key, until somebody presses one."""
        for _ in range(12):
            self.type(b"\x03")
            if self._finds(text, 10):
                return
        raise AssertionError(f"not on the screen: {text!r}; there is {self.text!r}")

    def wait_for(self, text: str) -> None:
        assert self._finds(text, 120), f"not on the screen: {text!r}; there is {self.text!r}"

    def _finds(self, text: str, within_s: float) -> bool:
        deadline_s = time.monotonic() + within_s
        while text not in self.text:
            ready, _, _ = select.select([self._master], [], [], max(0, deadline_s - time.monotonic()))
            if not ready:
                return False
            if not self._read():
                raise AssertionError(f"the program ended without {text!r}: {self.text!r}")
        return True

    def _read(self) -> bool:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the program has closed the terminal
            return False
        self.text += self._decoder.decode(data)
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
    def run(*arguments: str, whole: bool = False, columns: int = 0) -> Iterator[Screen]:
        screen = Screen(arguments, whole=whole, columns=columns)
        try:
            yield screen
        finally:
            screen.close()

    return run


def test_ctrl_c_cancels_the_request(terminal: Callable[..., Any], daemon: FakeDaemon) -> None:
    with terminal("run", "--raw", "forever") as screen:
        screen.wait_for("begun")
        screen.type(b"\x03")
        code, said = screen.end()
    assert code == 130
    assert said == "cancelled\n"
    assert daemon.disconnected.wait(120)


def test_text_comes_while_it_is_generated_and_without_escapes(terminal: Callable[..., Any], daemon: FakeDaemon) -> None:
    with terminal("run", "--raw", "escape") as screen:
        code, said = screen.end()
    assert (code, said) == (0, "")
    assert screen.text == "\ufffd[31mred\r\n"


def test_who_waits_sees_where_its_request_stands(terminal: Callable[..., Any], daemon: FakeDaemon) -> None:
    with terminal("run", "queued", whole=True) as screen:
        screen.wait_for("waiting: 3 in the queue, 8-20 s")
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


def test_nobody_is_asked_whether_to_remove_a_tenant_that_does_not_exist(
    terminal: Callable[..., Any], daemon: FakeDaemon
) -> None:
    daemon.add("acme")
    with terminal("tenant", "remove", "acne", whole=True) as screen:
        assert screen.end()[0] == 1
    assert "no tenant named 'acne'" in screen.text and "Remove" not in screen.text
    with terminal("tenant", "remove", "acme", whole=True) as screen:
        screen.wait_for("Remove tenant acme and revoke its keys? [y/N]: ")
        screen.type(b"y\r")
        assert screen.end()[0] == 0


@pytest.mark.parametrize(("answer", "default"), [(b"y", "on"), (b"n", "off"), (b"", "off")])
def test_init_asks_for_what_it_needs(
    answer: bytes, default: str, terminal: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("HOME", str(tmp_path)), ("TZ", "Europe/Paris"), ("LC_ALL", "C")):
        monkeypatch.setenv(name, value)
    (tmp_path / "models").mkdir()
    file = tmp_path / "asked.toml"
    model = write_tiny_gguf(tmp_path / "models" / "tiny.gguf")
    with terminal("init", "--config", str(file), whole=True) as screen:
        screen.wait_for("1  ~/models/tiny.gguf")
        screen.wait_for("path of a GGUF file [1]: ")
        screen.type(b"none.gguf\r")
        screen.wait_for("no such file")
        screen.type(b"1\r")
        screen.wait_for("Currency of invoices [USD]: ")
        screen.type(b"EUR\r")
        screen.wait_for("Time zone of billing months [Europe/Paris]: ")
        screen.type(b"\r")
        screen.wait_for("every request is independent of earlier ones")
        screen.wait_for("Cache prompts? [y/N]: ")
        screen.type(b"perhaps\r")
        screen.wait_for("type y or n")
        screen.type(answer + b"\r")
        assert screen.end()[0] == 0
    assert "Tenants never share it" in screen.text
    config = load_config(file)
    assert config.cache.default == default and config.model.path == model
    assert (config.billing.currency, config.billing.timezone) == ("EUR", "Europe/Paris")
    with terminal("init", "--config", str(file), whole=True) as screen:
        assert screen.end()[0] == 1
    said = " ".join(screen.text.split())
    assert "already exists" in said and "Cache prompts" not in said, "it asks nothing in vain"
