"""What keys do."""

from __future__ import annotations

from typing import Any

import pytest

from tenantctl.top.choices import SORTS, Choices, Order, Page, Quit
from tenantctl.top.gpu_gauges import GpuWatch, nvidia_gauges
from tenantctl.top.live_rows import view
from tenantctl.top.raw_terminal import keys_in
from tests.cli.top.samples import busy

ROWS = view(busy()).rows
REQUESTS = ["req_1", "req_2", "req_3"]


def press(choices: Choices, *keys: str) -> Any:
    """What the last key does beyond the screen."""
    done = None
    for key in keys:
        done = choices.press(key, choices.ordered(ROWS), REQUESTS)
        choices.settle(choices.ordered(ROWS), REQUESTS)
    return done


def names(choices: Choices) -> list[str]:
    return [row.name for row in choices.ordered(ROWS)]


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        ("\x1b[A\x1b[B\x1bOA", ["up", "down", "up"]),
        ("\x1b", ["escape"]),
        ("jk\r\x7f", ["j", "k", "enter", "backspace"]),
        ("\x1b[5~\x1b[6~\x1b[H\x1bOF", ["page up", "page down", "home", "end"]),
        ("\x1b[1;5C\x1b[200~ü\x00\x01", ["ü"]),  # others are left out
    ],
)
def test_keys_are_told_apart(sent: str, keys: list[str]) -> None:
    assert keys_in(sent) == keys


def test_sorting_by_every_column_and_the_other_way_round() -> None:
    choices = Choices()
    assert names(choices)[:2] == ["acme", "globex"]
    seen = [choices.sort]
    for _ in range(len(SORTS) - 1):
        press(choices, "s")
        seen.append(choices.sort)
    assert seen == list(SORTS) and names(choices) == sorted(names(choices))
    press(choices, "r")
    assert names(choices) == sorted(names(choices), reverse=True)
    press(choices, "s", "r")
    assert choices.sort == "tok/s" and names(choices)[0] == "acme"


def test_a_filter_is_typed_kept_and_cleared() -> None:
    choices = Choices()
    press(choices, "/", "q", "backspace", "o", "b")
    assert choices.is_typing and names(choices) == ["globex"] and choices.tenant == "globex"
    press(choices, "enter", "s")
    assert not choices.is_typing and choices.filter == "ob"
    press(choices, "escape")
    assert len(names(choices)) == len(ROWS)
    press(choices, "/", "x", "y", "escape")
    assert choices.filter == "" and not choices.is_typing


def test_a_tenant_is_opened_a_request_cancelled_if_one_says_so_and_back() -> None:
    choices = Choices()
    choices.settle(choices.ordered(ROWS), REQUESTS)
    assert press(choices, "c") is None and choices.asked is None, "only on the page of a tenant"
    press(choices, "j", "enter")
    assert (choices.page, choices.tenant, choices.request) == (Page.TENANT, "globex", "req_1")
    press(choices, "down", "down", "down")
    assert choices.request == "req_3"
    assert press(choices, "c", "n") is None and choices.asked is None
    assert press(choices, "c", "y") == Order("cancel", "req_3")
    press(choices, "home")
    assert choices.request == "req_1"
    press(choices, "escape")
    assert (choices.page, choices.tenant) == (Page.TENANTS, "globex")


def test_a_tenant_is_suspended_or_resumed_if_one_says_so() -> None:
    choices = Choices()
    choices.settle(choices.ordered(ROWS), [])
    assert press(choices, "S", "q") is None
    assert press(choices, "S", "y") == Order("suspend", "acme")
    choices.tenant = "stopped"
    assert press(choices, "S", "y") == Order("resume", "stopped")


def test_help_pausing_and_the_end() -> None:
    choices = Choices()
    press(choices, "?")
    assert choices.page is Page.HELP
    press(choices, "x", " ")
    assert (choices.page, choices.is_paused) == (Page.TENANTS, True)
    assert isinstance(press(choices, "q"), Quit)


def test_who_sees_only_itself_stays_on_its_page_and_suspends_nobody() -> None:
    choices = Choices("acme")
    choices.settle(choices.ordered(ROWS), REQUESTS)
    press(choices, "escape", "S")
    assert choices.page is Page.TENANT and choices.asked is None
    assert press(choices, "c", "y") == Order("cancel", "req_1")


def test_gauges_of_gpus_leave_out_what_drivers_do_not_tell(tmp_path: Any) -> None:
    text = "NVIDIA H200, 87, 12595, 143771, 412.37, 700.00, 54\nAn, odd name, [N/A], 1, 2, [N/A], [N/A], 40\nbroken\n"
    first, second = nvidia_gauges(text)
    assert first.parts() == ["NVIDIA H200", "87% busy", "12.3 of 140.4 GiB", "412 of 700 W", "54 °C"]
    assert second.parts() == ["An, odd name", "0.0 of 0.0 GiB", "40 °C"]
    device = tmp_path / "card0" / "device"
    (device / "hwmon" / "hwmon3").mkdir(parents=True)
    for name, value in (("gpu_busy_percent", "50"), ("mem_info_vram_used", str(1 << 30)), ("mem_info_vram_total", "?")):
        (device / name).write_text(f"{value}\n")
    (device / "hwmon" / "hwmon3" / "power1_average").write_text("35000000\n")
    watch = GpuWatch(cards=tmp_path)
    assert [gauges.parts() for gauges in watch.read()][-1] == ["AMD card0", "50% busy", "1.0 GiB", "35 W"]
    watch.close()
