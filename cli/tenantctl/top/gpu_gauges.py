"""How busy, full, hot and hungry the GPUs of this machine are, where a driver tells."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from tenantd.printable import one_line

EVERY_S: Final = 3.0
"""Asking NVIDIA's driver takes a tenth of a second or more, in a process of its own."""
END_TIMEOUT_S: Final = 1.0
MOST_BYTES: Final = 65_536
MIB: Final = 1 << 20
GIB: Final = 1 << 30
FIELDS: Final = "name,utilization.gpu,memory.used,memory.total,power.draw,power.limit,temperature.gpu"
CARDS: Final = Path("/sys/class/drm")


class Gauges(NamedTuple):
    """One GPU. None for what is not told."""

    name: str
    busy: float | None = None
    used_bytes: float | None = None
    total_bytes: float | None = None
    power_w: float | None = None
    most_power_w: float | None = None
    temperature_c: float | None = None

    def parts(self) -> list[str]:
        """In words."""
        parts = [one_line(self.name, 32)]
        if self.busy is not None:
            parts.append(f"{self.busy:.0%} busy")
        if self.used_bytes is not None:
            of = f" of {self.total_bytes / GIB:.1f}" if self.total_bytes else ""
            parts.append(f"{self.used_bytes / GIB:.1f}{of} GiB")
        if self.power_w is not None:
            parts.append(f"{self.power_w:.0f}{f' of {self.most_power_w:.0f}' if self.most_power_w else ''} W")
        if self.temperature_c is not None:
            parts.append(f"{self.temperature_c:.0f} °C")
        return parts


class GpuWatch:
    """Reads the gauges now and then, and never waits for them."""

    def __init__(self, cards: Path = CARDS) -> None:
        self._cards = cards
        self._tool = shutil.which("nvidia-smi")
        self._asked: subprocess.Popen[bytes] | None = None
        self._asked_at_s = -EVERY_S
        self._nvidia: list[Gauges] = []

    def read(self) -> list[Gauges]:
        """The latest."""
        self._ask_nvidia()
        return [*self._nvidia, *self._amd()]

    def close(self) -> None:
        """End what still runs."""
        if self._asked is not None:
            self._asked.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # the driver hangs, and what waits for it cannot end
                self._asked.communicate(timeout=END_TIMEOUT_S)
            self._asked = None

    def _ask_nvidia(self) -> None:
        if self._asked is not None and self._asked.poll() is not None:
            assert self._asked.stdout is not None
            text = self._asked.stdout.read(MOST_BYTES).decode(errors="replace")
            self._asked.stdout.close()
            self._nvidia = list(nvidia_gauges(text)) if self._asked.returncode == 0 else []
            self._asked = None
        if self._tool is not None and self._asked is None and time.monotonic() - self._asked_at_s >= EVERY_S:
            self._asked_at_s = time.monotonic()
            command = [self._tool, f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits"]
            with contextlib.suppress(OSError):
                options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                self._asked = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, **options)

    def _amd(self) -> Iterator[Gauges]:
        """What the kernel's driver for AMD's GPUs tells in files."""
        for busy in sorted(self._cards.glob("card*/device/gpu_busy_percent")):
            device = busy.parent
            if (percent := _number(busy)) is None:
                continue
            power = next(iter(sorted(device.glob("hwmon/hwmon*/power1_average"))), device / "none")
            heat = next(iter(sorted(device.glob("hwmon/hwmon*/temp1_input"))), device / "none")
            power_micro_w, heat_milli_c = _number(power), _number(heat)
            yield Gauges(
                f"AMD {device.parent.name}",
                percent / 100,
                _number(device / "mem_info_vram_used"),
                _number(device / "mem_info_vram_total"),
                None if power_micro_w is None else power_micro_w / 1e6,
                None,
                None if heat_milli_c is None else heat_milli_c / 1000,
            )


def nvidia_gauges(text: str) -> Iterator[Gauges]:
    """Of the lines that nvidia-smi prints."""
    for row in text.splitlines():
        name, *cells = (cell.strip() for cell in row.rsplit(",", FIELDS.count(",")))
        if len(cells) != FIELDS.count(","):
            continue
        busy, used, total, power, most_power, heat = map(_float, cells)
        yield Gauges(
            name,
            None if busy is None else busy / 100,
            None if used is None else used * MIB,
            None if total is None else total * MIB,
            power,
            most_power,
            heat,
        )


def _number(path: Path) -> float | None:
    try:
        return _float(path.read_text("ascii").strip())
    except (OSError, ValueError):
        return None


def _float(text: str) -> float | None:
    """None for what a driver writes if it does not know: "[N/A]"."""
    try:
        return float(text)
    except ValueError:
        return None
