"""Energy as a daemon meters it, with a driver's library that a test compiles."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tenantctl.units import energy, watt_hours
from tenantd.engine.nvml import LIBRARY, Unmeasurable, counters
from tests.support.daemon import Daemon, wait_until
from tests.support.program import tenantctl

SOURCE = Path(__file__).parents[1] / "support" / "fake_nvml.c"
BUS_ID = "0000:c1:00.0"
WATTS = 250
# Both GPUs of the engine without a model are the same one.
WITH_GPU = f"""
from tenantd.engine.fake import FakeCompute
FakeCompute.gpu_bus_ids = ("{BUS_ID}", "{BUS_ID}")
"""
LONG = {"max_tokens": 200, "ignore_eos": True}


@pytest.fixture
def behaviour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that says how the library behaves, which is compiled beside it."""
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", str(SOURCE), "-o", str(tmp_path / LIBRARY)]
    subprocess.run(command, check=True)
    told = tmp_path / "behaviour"
    told.write_text("well")
    monkeypatch.setenv("FAKE_NVML", str(told))
    return told


def test_the_drivers_own_counter_is_read_or_the_power_added_up(behaviour: Path) -> None:
    library = str(behaviour.with_name(LIBRARY))
    assert counters([BUS_ID], str(behaviour.with_name("none.so"))) is None, "without a driver"
    assert counters([BUS_ID, "0000:c2:00.0"], library) is None, "another maker's GPU beside it"
    for way in ("well", "old"):
        behaviour.write_text(way)
        (read,) = counters([BUS_ID], library) or []
        began_s, before = time.monotonic(), read()
        since_s = time.monotonic()
        threading.Event().wait(0.1)
        until_s, after = time.monotonic(), read()
        ended_s = time.monotonic()
        assert (
            (until_s - since_s) * WATTS * 1000 - WATTS <= after - before <= (ended_s - began_s) * WATTS * 1000 + WATTS
        )
    behaviour.write_text("lost")
    with pytest.raises(Unmeasurable, match="nvmlDeviceGetPowerUsage: GPU is lost"):
        read()
    with pytest.raises(Unmeasurable, match="GPU is lost"):
        counters([BUS_ID], library)


def test_energy_goes_to_the_ledger_and_a_driver_that_hangs_stops_nothing(tmp_path: Path, behaviour: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITH_GPU)
    daemon = Daemon(tmp_path, engine={"slots": 2, "fake_step_micros": 5000})
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    daemon.environment |= {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(paths)}
    with daemon:
        for tenant in ("acme", "globex"):
            daemon.add_tenant(tenant)
        began_s = time.monotonic()
        streams = [daemon.stream(tenant, **LONG) for tenant in ("acme", "globex")]
        for stream in streams:
            stream.join()
        took_s = time.monotonic() - began_s
        one, other = sorted(daemon.rows(), key=lambda row: str(row["tenant"]))
        used = one["energy_millijoules"], other["energy_millijoules"]
        assert min(used) > 0 and sum(used) <= 3 * WATTS * took_s * 1000, "of two GPUs, the last moments as estimated"
        engine_s = (one["engine_micros"] + other["engine_micros"]) / 1e6
        assert sum(used) > WATTS * engine_s * 1000 / 10, "on a busy machine some readings come too late to count"

        shown = tenantctl(daemon, "requests", "show", one["id"]).stdout
        assert re.search(rf"^energy +{re.escape(energy(used[0]))}$", shown, re.MULTILINE), shown
        heading, *lines = tenantctl(daemon, "usage").stdout.splitlines()
        assert "energy Wh" in heading
        assert all(watt_hours(each) in line for each, line in zip((*used, sum(used)), lines, strict=True)), lines
        groups: list[dict[str, Any]] = daemon.get("/admin/v1/usage/tenant").json()["groups"]
        assert {group["name"]: group["energy_millijoules"] for group in groups} == {"acme": used[0], "globex": used[1]}
        metric = f'tenantd_energy_joules_total{{tenant="acme"}} {one["energy_millijoules"] / 1000}'
        assert metric in daemon.get("/metrics").text

        behaviour.write_text("hangs")
        for _ in range(2):
            assert daemon.complete("acme", **LONG).status_code == 200
        assert daemon.rows()[-1]["energy_millijoules"] == 0
        behaviour.write_text("well")
        wait_until(lambda: ends_with_energy(daemon), "energy again")


def ends_with_energy(daemon: Daemon) -> bool:
    assert daemon.complete("acme", **LONG).status_code == 200
    return bool(daemon.rows()[-1]["energy_millijoules"] > 0)
