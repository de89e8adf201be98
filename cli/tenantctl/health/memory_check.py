"""Whether the model fits, by the plan that the daemon makes; of a running daemon, whether the rest fits."""

from __future__ import annotations

from typing import Any, Final

from tenantctl.health.scene import Scene
from tenantctl.health.verdicts import Finding, Level, from_message, ok, warn
from tenantctl.units import size
from tenantd.errors import ModelError
from tenantd.host_memory import host_memory

NAME: Final = "memory"
NONE_KNOWN: Final = "tenantctl model info FILE shows what fits"


def check(scene: Scene) -> list[Finding]:
    """Of what is loaded, or else of what would be."""
    if scene.status is not None and scene.status["engine"]:
        free_bytes, total_bytes = host_memory()
        return [judge_loaded(scene.status["engine"], free_bytes, total_bytes)]
    if scene.config is None or scene.config.model.path is None or scene.config.engine.backend == "fake":
        free_bytes, total_bytes = host_memory()
        return [ok(NAME, f"{size(free_bytes)} of {size(total_bytes)} free")]
    return [_planned(scene)]


def judge_loaded(engine: dict[str, Any], free_bytes: int, total_bytes: int) -> Finding:
    """What is loaded is there already; paused requests and cached prompts may still need theirs."""
    slots = f"{engine['slots']} slots of {engine['context_tokens']} tokens are loaded on {engine['device']}"
    more_bytes = engine["swap_bytes"] + engine["cache_bytes"]
    what = f"{slots}; {size(free_bytes)} of {size(total_bytes)} of host memory are free"
    if more_bytes > free_bytes:
        what += f", but paused requests and cached prompts may take {size(more_bytes)}"
        return warn(NAME, what, "lower engine.swap_bytes or cache.host_bytes, or the machine may have to swap")
    return ok(NAME, what)


def _planned(scene: Scene) -> Finding:
    from tenantctl.proposal import planned, slots_line

    assert scene.config is not None
    try:
        plan = planned(scene.config)
    except ModelError as e:
        return too_small(e.message)
    engine = scene.config.engine.model_copy(update={"context_tokens": plan.context_tokens})
    slots = slots_line(scene.config.model_copy(update={"engine": engine}))
    what = f"{slots} need {size(plan.needed)} of {size(plan.free)} free"
    if plan.most_in_host > plan.host_free:
        what += f"; with paused requests and cached prompts {size(plan.most_in_host)} of {size(plan.host_free)}"
        return warn(NAME, what, "lower engine.swap_bytes or cache.host_bytes, or the machine may have to swap")
    return ok(NAME, what)


def too_small(message: str) -> Finding:
    """The message of a plan ends with what to lower."""
    what, separator, cure = message.partition(" are free: ")
    if separator:
        return Finding(NAME, Level.FAIL, f"{what} are free", cure)
    return from_message(NAME, Level.FAIL, message, NONE_KNOWN)
