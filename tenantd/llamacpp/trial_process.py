"""The process that `trial` asks: it answers one question, from standard input to standard output."""

from __future__ import annotations

import os
import resource
import sys

import llama_cpp
import msgspec

from tenantd.errors import ModelError, NotEnoughMemory
from tenantd.llamacpp import devices
from tenantd.llamacpp.gguf import model_file
from tenantd.llamacpp.memory_plan import opened
from tenantd.llamacpp.planned import MemoryPlan
from tenantd.llamacpp.trial import Answer, Device, Option, Question


def main() -> None:
    """Answer, then end."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.dup(1)
    os.dup2(2, 1)  # whatever a driver prints, standard output has only the answer
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    with open(out, "wb") as file:
        file.write(msgspec.json.encode(_answered(question)))


def _answered(question: Question) -> Answer:
    llama_cpp.llama_backend_init()
    machine = Answer(
        version=llama_cpp.llama_version().decode(),
        backends=devices.backends(),
        can_offload=bool(llama_cpp.llama_supports_gpu_offload()),
        gpus=[
            Device(description=gpu.description, free_bytes=gpu.free_bytes, total_bytes=gpu.total_bytes)
            for gpu in devices.gpus()
        ],
    )
    if not question.options:
        return machine
    try:
        chosen, plan = _best(question.options, has_gpu=bool(machine.gpus))
    except ModelError as e:
        return msgspec.structs.replace(machine, refusal=e.message, may_pass=isinstance(e, NotEnoughMemory))
    return msgspec.structs.replace(machine, chosen=chosen, plan=plan)


def _best(options: list[Option], *, has_gpu: bool) -> tuple[int, MemoryPlan]:
    """The number of the best option and its plan. Raises the error of the last option if none is possible."""
    first = options[0].load
    best: tuple[int, MemoryPlan] | None = None
    refusal = ModelError("there is nothing to try")
    with opened(first, model_file(first.model_path)) as plan_of:
        for number, option in enumerate(options):
            if option.needs_gpu and not (has_gpu and option.load.gpu_layers):
                continue
            try:
                plan = plan_of(option.load)
            except ModelError as e:
                refusal = e
                continue
            if plan.context_tokens >= min(option.enough_tokens, plan.train_context_tokens or option.enough_tokens):
                return number, plan
            if best is None or plan.context_tokens > best[1].context_tokens:
                best = number, plan
    if best is None:
        raise refusal
    return best


if __name__ == "__main__":
    main()
