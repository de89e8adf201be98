"""What to write into a new configuration: slots, context and cache that suit a model and the memory that is free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from tenantctl.units import size

if TYPE_CHECKING:
    from tenantd.config import Config
    from tenantd.llamacpp.planned import MemoryPlan
    from tenantd.llamacpp.trial import Option
    from tenantd.wire.messages import Load

PREFERRED: Final = (
    (16, "f16", 32_768, True),
    (8, "f16", 8192, False),
    (4, "f16", 8192, False),
    (2, "f16", 8192, False),
    (1, "f16", 4096, False),
    (1, "q8_0", 4096, False),
)
"""Slots, type of the KV cache, the context that makes them worthwhile, and whether they need a GPU."""
CACHE_STEP_BYTES: Final = 1 << 28
MOST_CACHE_BYTES: Final = 8 << 30


class Proposal(NamedTuple):
    """A configuration, and the memory that the daemon will plan for it."""

    config: Config
    plan: MemoryPlan


class Wishes(NamedTuple):
    """What the user has chosen; None: what suits."""

    slots: int | None = None
    context_tokens: int | None = None
    caches: bool = False


def propose(config: Config, wishes: Wishes) -> Proposal:
    """The best way to serve `model.path` here. Raises ModelError, NotEnoughMemory."""
    from tenantd.fleet.supervisor import load_command
    from tenantd.llamacpp.trial import plan_option

    chosen, plan = plan_option(options(load_command(config), wishes))
    load = chosen.load
    engine = config.engine.model_copy(
        update={"slots": load.slots, "kv_type": load.kv_type, "context_tokens": plan.context_tokens}
    )
    cache = config.cache
    if wishes.caches:
        cache = cache.model_copy(update={"default": "on", "host_bytes": cache_bytes(plan)})
    proposed = config.model_copy(update={"engine": engine, "cache": cache})
    return Proposal(proposed, planned(proposed) if wishes.caches else plan)


def planned(config: Config) -> MemoryPlan:
    """The plan that the daemon will make for a configuration. Raises ModelError, NotEnoughMemory."""
    from tenantd.fleet.supervisor import load_command
    from tenantd.llamacpp.trial import Option, plan_option

    return plan_option([Option(load=load_command(config))])[1]


def options(load: Load, wishes: Wishes) -> list[Option]:
    """Ways to load the model, the preferred ones first, as far as the user has not chosen."""
    import msgspec

    from tenantd.llamacpp.trial import Option

    preferred: Sequence[tuple[int, str, int, bool]] = PREFERRED
    if wishes.slots is not None:
        preferred = [(wishes.slots, "f16", 4096, False), (wishes.slots, "q8_0", 4096, False)]
    return [
        Option(
            load=msgspec.structs.replace(
                load, slots=slots, kv_type=kv_type, context_tokens=wishes.context_tokens or 0, has_caches=False
            ),
            enough_tokens=enough_tokens,
            needs_gpu=needs_gpu,
        )
        for slots, kv_type, enough_tokens, needs_gpu in preferred
    ]


def cache_bytes(plan: MemoryPlan) -> int:
    """Half of the host memory that nothing else takes, but enough for a prompt that fills the context if possible."""
    spare_bytes = max(0, plan.host_free - plan.most_in_host)
    wanted_bytes = min(spare_bytes // 2, MOST_CACHE_BYTES)
    if wanted_bytes < plan.state <= spare_bytes:
        wanted_bytes = plan.state
    return max(1, -(-wanted_bytes // CACHE_STEP_BYTES)) * CACHE_STEP_BYTES


def slots_line(config: Config) -> str:
    """Slots, their context, and the type of the KV cache if it is not the usual one."""
    engine = config.engine
    kind = "" if engine.kv_type == "f16" else f", KV cache {engine.kv_type}"
    return f"{_slots(engine.slots)} of {engine.context_tokens} tokens{kind}"


def _slots(number: int) -> str:
    return "1 slot" if number == 1 else f"{number} slots"


def cost_lines(proposal: Proposal) -> list[str]:
    """What the configuration takes of this machine, and what takes less."""
    from tenantd.banner import cache_warning, more_memory

    (config, plan), engine = proposal, proposal.config.engine
    context = f"{plan.context_tokens} tokens"
    if plan.context_tokens < plan.train_context_tokens:
        context += f" (the model can take {plan.train_context_tokens})"
    where = "" if plan.is_in_host else " on the GPU"
    lines = [
        f"memory: {size(plan.needed)} of {size(plan.free)} free{where}: {size(plan.weights)} weights, {size(plan.kv)} "
        f"KV cache ({engine.kv_type}) for {_slots(engine.slots)} of {context}, {size(plan.compute)} work space"
        + (f", {size(plan.embeddings)} for embeddings" if plan.embeddings else "")
        + (f", about {size(plan.projector)} for images" if plan.projector else ""),
        "to use less memory, lower engine.slots or engine.context_tokens"
        + (', or set engine.kv_type to "q8_0"' if engine.kv_type == "f16" else ""),
    ]
    if more := more_memory(plan.swap, plan.cache):
        settings = {"engine.swap_bytes": plan.swap, "cache.host_bytes": plan.cache}
        named = ", ".join(name for name, taken in settings.items() if taken)
        lines.append(f"as needed, {more} ({named}): {size(plan.most_in_host)} of {size(plan.host_free)} in all")
    if config.cache.default == "on":
        warning = cache_warning(plan.short_state, plan.state, plan.context_tokens, config.cache.host_bytes)
        lines += [f"warning: {warning}"] if warning else []
    return lines
