"""An engine process that fails as it is told: `scripted_engine.py SCRIPT.json --fd N`.

The script is a JSON list with one object per life of the process, and a last one for all lives after that:
`start` and `on_submit`: what to do instead; `vocabulary`: that of another model; `after_tokens` and `then`: what to do
once so many tokens were sent in that life; `on_check`: what to do in the middle of a self-check, `wait` for its end;
`mix` and `mix_after`: how it mixes up two requests, and after how many tokens; `step_s`: how long a step takes.
Token i of a request is a letter that depends on its prompt and i only. A prompt that begins with `POISON` kills it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

import msgspec

from tenantd.domain import FinishReason, IsolationCheck, Verdict
from tenantd.wire.frames import MAX_FRAME_BYTES, decode_inbox, frame, split_frames
from tenantd.wire.messages import (
    Cancel,
    Check,
    Checked,
    Checking,
    CheckResult,
    EndCheck,
    EngineInfo,
    Event,
    Finish,
    Load,
    LoadFailed,
    Loading,
    Progress,
    Ready,
    Step,
    Stop,
    Submit,
    TenantPolicy,
)

POISON = 7
REFUSED = 8
STEP_MICROS = 100
INFO = EngineInfo(
    model="scripted",
    parameters=0,
    model_bytes=0,
    train_context_tokens=512,
    context_tokens=512,
    slots=4,
    vocabulary=258,
    kv="streams",
    kv_bytes=0,
    device="none",
    layers=0,
    layers_offloaded=0,
    gpu_build=False,
    threads=1,
    llama_version="none",
)


def token_at(prompt: list[int], index: int) -> int:
    """What every engine generates here, so that a seam shows."""
    return ord("a") + (sum(prompt) + 7 * index + index * index) % 26


def mixed(step: Step, how: str) -> Step:
    """The step with something of its second request under the number of the first."""
    change = msgspec.structs.replace
    first, second, *rest = step.progress
    match how:
        case "number":
            return change(step, progress=[first, change(second, request=first.request), *rest])
        case "binding":
            bindings = change(first, binding=second.binding), change(second, binding=first.binding)
            return change(step, progress=[second, bindings[0], *rest])
        case "no_binding":
            return change(step, progress=[change(first, binding=0), second, *rest])
        case "finish":
            return change(step, finishes=[Finish(first.request, second.binding, FinishReason.STOP)])
        case "finish_without":
            return change(step, finishes=[Finish(first.request, None, FinishReason.STOP)])
        case "bound":
            return change(step, bound=[(first.request, second.binding)])
        case "bound_both":
            new = first.binding + second.binding
            return change(step, bound=[(second.request, new), (first.request, new)])
    raise ValueError(how)


MIXES = ("number", "binding", "no_binding", "finish", "finish_without", "bound", "bound_both")


def main() -> None:
    script_path = Path(sys.argv[1])
    sock = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
    lives = json.loads(script_path.read_text())
    counter = script_path.with_suffix(".lives")
    number = int(counter.read_text()) if counter.exists() else 0
    counter.with_suffix(".new").write_text(str(number + 1))
    counter.with_suffix(".new").rename(counter)
    with script_path.with_suffix(".environment").open("w") as file:
        json.dump(dict(os.environ), file)
    Engine(sock, lives[min(number, len(lives) - 1)], script_path.with_suffix(".contexts")).run()


class Engine:
    def __init__(self, sock: socket.socket, life: dict[str, object], contexts: Path) -> None:
        self.sock = sock
        self.contexts = contexts  # what each life was told to load
        self.life = life
        self.buffer = bytearray()
        self.jobs: dict[int, Submit] = {}
        self.generated: dict[int, int] = {}
        self.charged: dict[int, int] = {}
        self.finishes: list[Finish] = []
        self.sent_tokens = 0
        self.steps = 0
        self.bindings: dict[int, int] = {}
        self.taken = 0

    def send(self, event: Event) -> None:
        self.sock.sendall(frame(event))

    def run(self) -> None:
        self.receive(wait=True)
        self.send(Loading(0.5))
        if start := self.life.get("start"):
            self.misbehave(str(start))
        self.send(Ready(msgspec.structs.replace(INFO, vocabulary=self.life.get("vocabulary", INFO.vocabulary))))
        while True:
            self.receive(wait=not self.jobs and not self.finishes)
            if self.jobs or self.finishes:
                self.step()
            select.select([], [], [], float(str(self.life.get("step_s", 0.0002))))

    def receive(self, *, wait: bool) -> None:
        while wait or select.select([self.sock], [], [], 0)[0]:
            wait = False
            data = self.sock.recv(1 << 18)
            if not data:
                sys.exit(0)
            self.buffer += data
            for body in split_frames(self.buffer):
                for command in decode_inbox(body).commands:
                    match command:
                        case Load(context_tokens=tokens):
                            with self.contexts.open("a") as file:
                                print(tokens, file=file)
                        case Submit():
                            self.submit(command)
                        case Cancel(request) if request in self.jobs:
                            self.finish(request, FinishReason.CANCELLED)
                        case TenantPolicy():
                            rates = (command.reserved_slots, command.tokens_per_minute)
                            print("share", command.tenant, command.weight, command.max_concurrent, *rates, flush=True)
                        case Check(nonce=nonce):
                            self.check(nonce)
                        case EndCheck():
                            print("check ended", flush=True)
                        case Stop():
                            if self.life.get("then") != "ignore_stop":
                                sys.exit(0)

    def check(self, nonce: int) -> None:
        name, *rest = (name for name in IsolationCheck if name is not IsolationCheck.IDENTITY)
        first = CheckResult(name=name, result=Verdict.HELD, n=10)
        self.send(Checking(nonce=nonce, check=rest[0], progress=0.25, results=[first], busy_micros=STEP_MICROS))
        how = self.life.get("on_check")
        if how == "wait":
            return
        if how:
            self.misbehave(str(how))
        results = [first, *(CheckResult(name=name, result=Verdict.HELD, n=10) for name in rest)]
        self.send(Checked(nonce=nonce, results=results, busy_micros=STEP_MICROS))

    def submit(self, submit: Submit) -> None:
        if submit.prompt[0] == POISON:
            print("ggml.c:42: GGML_ASSERT(poison) failed", flush=True)
            print("[backtrace]", flush=True)
            os.abort()
        if how := self.life.get("on_submit"):
            self.misbehave(str(how))
        self.jobs[submit.request] = submit
        self.taken += 1
        self.bindings[submit.request] = self.taken
        self.generated[submit.request] = len(submit.generated)
        self.charged[submit.request] = submit.billed_prompt_tokens
        if submit.prompt[0] == REFUSED:
            self.finish(submit.request, FinishReason.FAILED, "refused")

    def finish(self, request: int, reason: FinishReason, message: str = "") -> None:
        del self.jobs[request]
        self.finishes.append(Finish(request, self.bindings[request], reason, message))

    def step(self) -> None:
        progress = []
        for request, submit in list(self.jobs.items()):
            prefilled = len(submit.prompt) - self.charged[request]
            self.charged[request] += prefilled
            token = token_at(submit.prompt, self.generated[request])
            self.generated[request] += 1
            self.sent_tokens += 1
            progress.append(Progress(request, self.bindings[request], prefilled, token, STEP_MICROS))
            if self.generated[request] >= submit.max_tokens:
                self.finish(request, FinishReason.LENGTH)
        self.steps += 1
        finishes, self.finishes = self.finishes, []
        step = Step(
            number=self.steps,
            busy_micros=STEP_MICROS * (len(progress) + 1),
            unbilled_micros=STEP_MICROS,
            progress=progress,
            finishes=finishes,
            running=len(self.jobs),
            waiting=0,
            bound=[(request, self.bindings[request]) for request in [*self.jobs, *(f.request for f in finishes)]],
            usage={submit.tenant: 3.0 for submit in self.jobs.values()},
        )
        mix_after = self.life.get("mix_after")
        if isinstance(mix_after, int) and self.sent_tokens >= mix_after and len(progress) > 1:
            step = mixed(step, str(self.life["mix"]))
        self.send(step)
        limit = self.life.get("after_tokens")
        if isinstance(limit, int) and self.sent_tokens >= limit:
            self.misbehave(str(self.life["then"]))

    def hang(self) -> None:
        """Take no notice of anything but the end of the daemon."""
        while self.sock.recv(1 << 18):
            pass
        sys.exit(0)

    def misbehave(self, how: str) -> None:
        match how:
            case "sigkill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "sigill":
                os.kill(os.getpid(), signal.SIGILL)
            case "abort":
                os.abort()
            case "hang":
                self.hang()
            case "garbage":
                self.sock.sendall((5).to_bytes(4, "big") + b"\xc1\xff\x00hi")
                signal.alarm(30)  # so as not to stay for ever where nobody kills it
                signal.pause()
            case "huge":
                self.sock.sendall((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
                self.hang()
            case "half_frame":
                self.sock.sendall((500).to_bytes(4, "big") + b"only this")
                sys.exit(3)
            case "load_failed":
                self.send(LoadFailed("not a GGUF file"))
                sys.exit(78)
            case "no_memory":
                self.send(LoadFailed("5 MiB are free", may_pass=True))
                sys.exit(78)
            case "ignore_stop":
                pass
            case _:
                sys.exit(int(how))


if __name__ == "__main__":
    main()
