"""Asks llama.cpp in a process of its own about a model and this machine, before anything is loaded.

A file that is damaged on purpose, or a driver, may end that process or hold it up for ever. Here that is an error.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from tenantd.errors import ModelError, NotEnoughMemory
from tenantd.llamacpp.planned import MemoryPlan
from tenantd.printable import one_line
from tenantd.wire.messages import Load

TIMEOUT_S: Final = 60.0
"""Only metadata is read; a driver may take seconds to start."""
MOST_CHARACTERS: Final = 300
"""Of what llama.cpp said last."""


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """A way to load the model, and how much context makes it good enough to try no other."""

    load: Load
    enough_tokens: int = 0
    needs_gpu: bool = False
    """Whether to try it only if the model will be on a GPU."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Options in order of preference, each for the same model. Without any, only the machine is looked at."""

    options: list[Option] = []


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU that llama.cpp can use."""

    description: str
    free_bytes: int
    total_bytes: int


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What there is, and the plan for the option that was chosen: the first with enough context, or that with the most.

    `refusal` says why there is no plan. It may pass if only free memory is short.
    """

    version: str
    backends: list[str]
    can_offload: bool
    gpus: list[Device]
    chosen: int | None = None
    plan: MemoryPlan | None = None
    refusal: str = ""
    may_pass: bool = False


def look_at_machine(timeout_s: float = TIMEOUT_S) -> Answer:
    """What this build of llama.cpp is, and which GPUs it sees. Raises ModelError."""
    return _ask(Question(), timeout_s, "")


def plan_option(options: Sequence[Option], timeout_s: float = TIMEOUT_S) -> tuple[Option, MemoryPlan]:
    """The best option, with the plan that the daemon will make for it. Raises ModelError, NotEnoughMemory."""
    answer = _ask(Question(options=list(options)), timeout_s, f"{options[0].load.model_path}: ")
    if answer.plan is None or answer.chosen is None:
        raise (NotEnoughMemory if answer.may_pass else ModelError)(answer.refusal)
    return options[answer.chosen], answer.plan


def _ask(question: Question, timeout_s: float, about: str) -> Answer:
    command = [sys.executable, "-P", "-m", "tenantd.llamacpp.trial_process"]  # -P: no code from the current folder
    try:
        asked = msgspec.json.encode(question)
    except UnicodeEncodeError:
        raise ModelError(f"{about}the name is not UTF-8; rename the file") from None
    try:
        done = subprocess.run(command, input=asked, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise ModelError(f"{about}llama.cpp did not answer within {timeout_s:g} s") from None
    if done.returncode == 0:
        return msgspec.json.decode(done.stdout, type=Answer)
    said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no output"]
    raise ModelError(f"{about}llama.cpp {_end(done.returncode)}: {one_line(_last_words(said), MOST_CHARACTERS)}")


def _last_words(lines: Sequence[str]) -> str:
    """The line that tells most: a failed assertion is followed by a trace."""
    return next((line for line in lines if "GGML_ASSERT" in line), lines[-1])


def _end(code: int) -> str:
    if code >= 0:
        return f"failed with {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}; is the file damaged?"
    except ValueError:
        return f"was ended by signal {-code}"
