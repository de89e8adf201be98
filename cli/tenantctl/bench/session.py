"""One run from start to end: inspect the server, warm it up, scale the rates, measure."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tenantctl.bench.display import watching
from tenantctl.bench.load import capacity, rate_scale, run, try_out
from tenantctl.bench.measurement import Measurement, Plan
from tenantctl.bench.subjects import WARM_UP, check_daemon, ordinary_tokens, probe, temporary_tenants
from tenantctl.bench.suites import Suite
from tenantctl.bench.target import Target
from tenantctl.client import Client
from tenantctl.render import message
from tenantd.errors import InvalidRequest

CALIBRATION_PART: Final = 0.25
CALIBRATION_S: Final = (2.0, 12.0)
"""Share of the run's length, and its bounds in seconds."""


@dataclass(frozen=True)
class Options:
    """The options of a run. None: to be determined."""

    suite: Suite
    length_scale: float
    duration_s: float
    seed: int
    rate_scale: float | None
    vocabulary: range | None
    png: Path | None = None


def measure_daemon(options: Options, client: Client) -> Measurement:
    """Measure the daemon behind `client` with temporary tenants. Raises TenantdError."""
    engine = check_daemon(client, options.suite)
    vocabulary = options.vocabulary or ordinary_tokens(engine["vocabulary"])
    if vocabulary.stop > engine["vocabulary"]:
        raise InvalidRequest(f"--vocabulary: the last token of this model is {engine['vocabulary'] - 1}")
    with temporary_tenants(client, options.suite) as targets:
        return asyncio.run(_measure(options, vocabulary, targets))


def measure_url(
    options: Options, url: str, api_key: str, tenant_keys: Mapping[str, str], extra: dict[str, Any]
) -> Measurement:
    """Measure any server. `tenant_keys` are API keys, for tenants that have their own there. Raises TenantdError."""
    tenants = [t.name for t in options.suite.tenants]
    if unknown := tenant_keys.keys() - tenants:
        names = ", ".join(sorted(unknown))
        raise InvalidRequest(f"--tenant-key: this suite has no tenant {names}; it has {', '.join(tenants)}")
    target, n_tokens = probe(url, api_key, extra)
    vocabulary = options.vocabulary or ordinary_tokens(n_tokens)
    targets = dict.fromkeys((WARM_UP, *tenants), target)
    targets |= {name: target.with_key(key) for name, key in tenant_keys.items()}
    return asyncio.run(_measure(options, vocabulary, targets))


async def _measure(options: Options, vocabulary: range, targets: Mapping[str, Target]) -> Measurement:
    await try_out(targets[WARM_UP], vocabulary)
    with watching() as watch:
        scale = options.rate_scale
        if scale is None and options.suite.calibrated:
            least_s, most_s = CALIBRATION_S
            duration_s = min(most_s, max(least_s, options.duration_s * CALIBRATION_PART))
            service_per_s = await capacity(targets[WARM_UP], duration_s, vocabulary, watch)
            scale = rate_scale(service_per_s, options.length_scale)
            message(f"capacity {service_per_s:,.0f} service/s; arrival rates multiplied by {scale:.3g}")
        plan = Plan(options.suite, options.duration_s, options.seed, scale or 1.0, vocabulary)
        return await run(plan, targets, watch)
