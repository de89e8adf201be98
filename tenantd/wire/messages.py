"""The messages between the daemon and the engine process.

The daemon sends `Inbox` frames; the engine sends `Loading` while it loads, then one `Ready` or `LoadFailed`, then one
`Step` per step of its loop, and `Checking` and `Checked` when asked to check itself. frames.py encodes them.
"""

from __future__ import annotations

import msgspec

from tenantd.domain import FinishReason, IsolationCheck, Priority, Sampling, TokenLogprobs, Verdict
from tenantd.wire.settings import Settings

IMAGE_TOKENS_FROM = 1 << 30
"""The tokens of images are ids from here on, which no vocabulary has: they are made of what the image is. So prompts
with different images are different prompts, wherever tokens are compared or hashed."""
IMAGES_FD_VARIABLE = "TENANTD_IMAGES_FD"
"""In the environment of an engine, the inherited descriptor of the memory with the images' pixels."""

# ---- daemon to engine -------------------------------------------------------------------------------------------


class LoadEmbeddings(msgspec.Struct, frozen=True, kw_only=True):
    """How to embed texts: with which model, and how the vectors of a text's tokens become one."""

    model_path: str  # "" for the model that generates
    pooling: str  # "model": as the file says; "mean", "cls", "last" or "rank"
    input_tokens: int  # of the longest text; no more than the model was trained for


class Load(msgspec.Struct, tag="load", frozen=True, kw_only=True):
    """The first command: which model and context to load, and how to share it. Sent once."""

    backend: str
    model_path: str
    slots: int
    context_tokens: int  # per slot; 0: chosen for model and memory
    batch_tokens: int
    kv: str  # "streams" or "unified"
    kv_type: str = "f16"  # of keys and values: "f16", "q8_0" or "q4_0"
    threads: int  # 0: chosen for the machine
    gpu_layers: int  # negative: all
    flash_attention: str  # "auto", "on" or "off"
    swap_bytes: int  # host memory for the state of swapped-out requests
    cache_bytes: int = 0  # host memory for what tenants' finished requests leave to their later ones
    has_caches: bool = False  # tenants have a cache unless theirs is off: so it counts in the memory plan
    checkpoint_tokens: int = 512  # between copies of a prompt's state, where the model cannot go back to an earlier one
    scrub: bool = False  # overwrite KV cells before another request gets them
    grammar_budget_ms: int  # total CPU time of one request's grammar
    fake_step_micros: int
    fake_token_micros: int
    settings: Settings
    embeddings: LoadEmbeddings | None = None
    projector_path: str = ""  # of what turns images into embeddings; "": images are not understood


class SetSampling(msgspec.Struct, tag="set_sampling", frozen=True):
    """Sampling settings that later requests refer to by `number`, so that they are sent only once."""

    number: int  # unique while the daemon runs
    sampling: Sampling  # its seed is ignored; each request has its own


class DropSampling(msgspec.Struct, tag="drop_sampling", frozen=True):
    """No later request refers to these settings."""

    number: int


class PlacedImage(msgspec.Struct, frozen=True, array_like=True):
    """An image in a prompt: `start` tokens are before its own `tokens`. Its pixels, of three bytes each and row by row,
    are at `offset` in the memory that the engine shares with the daemon, until the request has ended."""

    start: int
    tokens: int
    offset: int
    width: int
    height: int


class Submit(msgspec.Struct, tag="submit", frozen=True, kw_only=True):
    """A request to run. After a crash it is sent again with the tokens already `generated`."""

    request: int  # unique while the daemon runs, and greater than that of any earlier request
    tenant: str
    prompt: list[int]
    hidden_tokens: int = 0  # of the prompt, up to the end of a system prompt: nothing but the model reads them
    generated: list[int] = []
    max_tokens: int  # includes `generated`
    allowed_tokens: int | None = None  # as in `Allow`; None: all of them
    sampling: int  # number of a SetSampling
    seed: int = 0
    adapter: str = ""  # path of a LoRA adapter; "" for none
    billed_prompt_tokens: int = 0  # charged before a crash, computed or cached; recomputing them is free
    counts_prompt: bool = True  # towards tokens per minute; the choices of a prompt count it once
    is_flex: bool = False  # its tenant's others go first, and a tenant with nothing else is of the lowest class
    group: int = 0  # the same for all prompts and choices of one call, which share what they have in common; 0: none
    marks: list[int] = []  # where turns end in the prompt, ascending: how many tokens are before
    texts: list[int] = []  # lengths of the texts to embed, which the prompt then consists of; nothing is generated
    images: list[PlacedImage] = []  # ascending


class Allow(msgspec.Struct, tag="allow", frozen=True):
    """How many tokens a request may have generated in all, for the time being. Once it has, it is not computed, and
    keeps its place. Ignored like Cancel."""

    request: int
    tokens: int


class Cancel(msgspec.Struct, tag="cancel", frozen=True):
    """End a request in the next step. Unknown or finished ids are ignored, because messages may cross."""

    request: int


class TenantPolicy(msgspec.Struct, tag="share", frozen=True, kw_only=True):
    """A tenant's part of the engine, effective from the next step."""

    tenant: str
    weight: float  # includes the priority's factor
    priority: Priority = Priority.STANDARD  # decides the pace of its streams
    max_concurrent: int | None = None
    reserved_slots: int = 0
    tokens_per_minute: int | None = None  # prompt tokens computed and tokens generated, in any 60 seconds
    cache: int = 0  # whose earlier requests it may go on from: the tenant's number in the ledger; 0: nobody's


class Backlog(msgspec.Struct, tag="backlog", frozen=True):
    """Whether the daemon holds more requests of a tenant than it has sent. One that has any has work, and can use any
    number of slots, whatever has been sent so far. At first none has. `is_flex`: all of them are, as in `Submit`.
    """

    tenant: str
    exists: bool
    is_flex: bool = False


class Forget(msgspec.Struct, tag="forget", frozen=True):
    """A tenant was removed, and its requests have ended."""

    tenant: str


class Remember(msgspec.Struct, tag="remember", frozen=True):
    """What tenants bring along, from an engine before this one or from the ledger: decayed usage by weight, the tokens
    of the last minute as (microseconds until they no longer count, tokens), in that order, and the `level` of usage at
    which newcomers start.

    Sent to a fresh engine, after the shares and before the requests: a restart forgives nobody. Those in `busy` have
    requests under way: they do not come back from idle.
    """

    usage: dict[str, float]
    given: dict[str, list[tuple[int, int]]] = {}
    busy: list[str] = []
    level: float = 0.0


class Pause(msgspec.Struct, tag="pause", frozen=True):
    """Stop computing until resumed. Requests can still be cancelled; bound requests are kept."""

    is_paused: bool


class Check(msgspec.Struct, tag="check", frozen=True, kw_only=True):
    """Check the isolation between sequences, once no request has one. Answered by `Checking`, and by one `Checked`.

    Requests that run have a few seconds to finish; then they give their sequences up until the check has ended.
    `adapters` are paths of LoRA adapters to use in it. At most one check at a time.
    """

    nonce: int  # unique while the daemon runs
    quick: bool = False
    adapters: list[str] = []


class EndCheck(msgspec.Struct, tag="end_check", frozen=True):
    """End a check, without an answer. Ignored if it has ended, because messages may cross."""

    nonce: int


class Stop(msgspec.Struct, tag="stop", frozen=True):
    """Free the model and exit with 0."""


Command = (
    Load
    | SetSampling
    | DropSampling
    | Submit
    | Allow
    | Cancel
    | Backlog
    | TenantPolicy
    | Forget
    | Remember
    | Pause
    | Check
    | EndCheck
    | Stop
)


class Inbox(msgspec.Struct, frozen=True):
    """Commands in the order in which they take effect."""

    commands: list[Command]


# ---- engine to daemon -------------------------------------------------------------------------------------------


class Loading(msgspec.Struct, tag="loading", frozen=True):
    """Progress of loading, 0.0 to 1.0. Also the heartbeat while there are no steps."""

    progress: float


class LoadFailed(msgspec.Struct, tag="load_failed", frozen=True):
    """The model cannot be loaded; the process exits with 78 after it.

    `may_pass`: memory is short at the moment, so a retry may work without any change.
    """

    message: str
    may_pass: bool = False


SHORT_PROMPT_TOKENS = 256
"""A prompt that any cache should hold."""


class EmbeddingInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What texts are embedded with."""

    model: str
    dimensions: int
    ranks: bool = False  # vectors are scores, the first of which tells how well a document matches a query
    vocabulary: int  # tokens are below it
    input_tokens: int  # of the longest text
    model_bytes: int  # 0 for the model that generates
    work_bytes: int


class ImageInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What images are turned into embeddings with. Each has `tokens`, whatever its size, between those of `before` and
    `after`, which the model expects around it. More than `side` pixels on each side are of no use to it."""

    projector: str
    tokens: int
    before: list[int]
    after: list[int]
    side: int
    model_bytes: int


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What was loaded, for the start-up line and `status`."""

    model: str
    parameters: int
    model_bytes: int
    train_context_tokens: int
    context_tokens: int  # of one slot
    slots: int
    vocabulary: int
    kv: str
    kv_type: str = "f16"
    kv_bytes: int
    swap_bytes: int = 0  # what paused requests may take: less than was asked for if memory is short
    cache_bytes: int = 0  # what cached prompts may take, 0 if tenants have no cache by default
    state_bytes: int = 0  # of a cached prompt that fills its context, about
    short_state_bytes: int = 0  # of one of SHORT_PROMPT_TOKENS
    device: str
    layers: int
    layers_offloaded: int
    gpu_build: bool  # llama.cpp was built with a GPU backend
    threads: int
    llama_version: str
    fingerprint: str = ""  # of the model file and llama_version
    embeddings: EmbeddingInfo | None = None
    images: ImageInfo | None = None


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """The model is loaded; requests can be sent."""

    info: EngineInfo


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """What one step did for one request. At most one per request and step.

    `binding` is that of the sequence that did it, which must be the one that `Step.bound` told for this request.
    `prefilled` prompt tokens computed for the first time (charged), `token` the one generated or -1, `micros` the
    request's part of the step's engine time. `cached` prompt tokens were not computed, because an earlier request had
    left them; over `prefilled` and `cached`, each prompt token is told once. `vectors` are those of the texts that the
    tokens just prefilled are: for each its numbers, 32-bit little-endian floats.
    """

    request: int
    binding: int
    prefilled: int
    token: int
    micros: int
    logprobs: TokenLogprobs | None = None
    cached: int = 0
    vectors: bytes = b""


class Finish(msgspec.Struct, frozen=True, array_like=True):
    """A request has ended and its slot is free. The last message about it.

    `message` explains `failed`; `param` names the field at fault if the request caused the failure. `detail`
    is for the daemon's log; the tenant must not see it. `binding` is the last that it had, None if it never had a slot.
    `kv_token_micros` and `swaps` are as in `Step.held`. `is_garbled`: it failed because the model returned NaN or
    infinity.
    """

    request: int
    binding: int | None
    reason: FinishReason
    message: str = ""
    param: str = ""
    detail: str = ""
    kv_token_micros: int = 0
    swaps: int = 0
    is_garbled: bool = False


class Outlook(msgspec.Struct, frozen=True, array_like=True):
    """How long requests without a token will wait for it, as far as can be foreseen.

    `waits_ms` is from now, by request. `apart_ms` is, of a tenant with requests that are still in the daemon, the time
    from each to the next once the last one in `waits_ms` has its token.
    """

    waits_ms: dict[int, int]
    apart_ms: dict[str, int]


class Step(msgspec.Struct, tag="step", frozen=True, kw_only=True):
    """The result of one step.

    `busy_micros` = sum of `progress[].micros` + `unbilled_micros`; the latter is time spent for nobody, such as
    computing tokens again that a crash lost, or whose state was not kept. `usage` has the decayed usage of every
    tenant the scheduler knows, once a second and when it falls idle; `level`, at the same times, where newcomers
    start. `bound` are the requests that have a slot or had one in this step, when those are others than in the step
    before, each with its binding: a number that grows with each slot that is given and never repeats in the life of
    the engine. `given` has the requests that got a slot in this step: its sequence, for the audit trail, and the
    microseconds since then. `adapters` has the versions of their adapters' files, as `version_text` writes them, of
    those that have one. `order` are the first of those that wait for one, in the order in which they should get it,
    once a second when it is another than before. `outlook` tells as often how long that will take, once speeds are
    known. `held` has what those that have or had one have held in this engine, once a second: (request, tokens in
    slots times the microseconds that they were there, how often it gave its slot up). `energy` is that of GPUs that
    is now known to be a request's, in millijoules by request.
    """

    number: int
    busy_micros: int
    unbilled_micros: int
    progress: list[Progress]
    finishes: list[Finish]
    running: int
    waiting: int
    swaps: int = 0  # requests swapped out since the previous step
    recomputes: int = 0  # preempted requests whose tokens must be recomputed
    usage: dict[str, float] | None = None
    level: float = 0.0
    bound: list[tuple[int, int]] | None = None
    given: dict[int, tuple[int, int]] | None = None
    adapters: dict[int, str] | None = None
    order: list[int] | None = None
    outlook: Outlook | None = None
    held: list[tuple[int, int, int]] | None = None
    cache: dict[int, int] | None = None
    energy: dict[int, int] | None = None


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found. `n` is how many things it compared or tried, `p` the probability of a statistical test.

    `detail` tells administrators why it is not held.
    """

    name: IsolationCheck
    result: Verdict
    n: int
    p: float | None = None
    detail: str = ""


class Checking(msgspec.Struct, tag="checking", frozen=True, kw_only=True):
    """Progress of a check, 0.0 to 1.0, several times a second. `check` is the one that runs, `results` are those of the
    ones before it, and `busy_micros` is the engine time since the last message."""

    nonce: int
    check: IsolationCheck
    progress: float
    results: list[CheckResult]
    busy_micros: int


class Checked(msgspec.Struct, tag="checked", frozen=True, kw_only=True):
    """A check has ended, and its sequences are empty again."""

    nonce: int
    results: list[CheckResult]
    busy_micros: int


Event = Loading | LoadFailed | Ready | Step | Checking | Checked
