"""Turns request bodies into token ids. Large ones are processed off the event loop, taking turns by tenant."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from tenantd.api.names import Names, read_request
from tenantd.api.openai.types import MAX_PROMPTS, ChatRequest, CompletionRequest
from tenantd.domain import Tenant
from tenantd.errors import ContextLengthExceeded, EngineUnavailable, InvalidRequest, SystemPromptTooLong
from tenantd.text.chat import ChatFormatter
from tenantd.text.chat_messages import PART_KINDS, REASONING
from tenantd.text.excerpt import excerpt
from tenantd.text.image_parts import Found, ImagePlaces, find_images
from tenantd.text.images import Images
from tenantd.text.pool import TextPool
from tenantd.text.prompt import Prompt
from tenantd.text.tools import MOST_VALUES
from tenantd.text.vocabulary import Vocabulary
from tenantd.wire.messages import ImageInfo

INLINE_BYTES: Final = 4096
"""Bodies up to this size, with the tenant's system prompt, are processed in the event loop, in a few milliseconds at
most."""
INLINE_MESSAGES: Final = 8
"""So are chats with up to this many messages and no tools; the cost of a message depends on the template."""
LONG_CHARACTERS: Final = 8
"""Characters per token of the context. A longer text is checked before it is tokenised; few texts are that long."""
SLICE_CHARACTERS: Final = 65_536

T = TypeVar("T")


class PromptReader:
    """Turns bodies into requests and prompts, for one vocabulary."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        chat: ChatFormatter,
        pool: TextPool,
        images: Images,
        image_info: Callable[[], ImageInfo | None] = lambda: None,
        check_early: Callable[[Tenant, int], None] = lambda tenant, prompt_tokens: None,
    ) -> None:
        """`image_info` tells what images are understood with, if they are. `check_early` raises if a tenant's prompt of
        at least so many tokens would be refused; it is asked before images are decoded."""
        self._vocabulary = vocabulary
        self._chat = chat
        self._pool = pool
        self._images = images
        self._image_info = image_info
        self._check_early = check_early

    async def completion(
        self, tenant: Tenant, body: bytes, names: Names, check: Callable[[CompletionRequest], int]
    ) -> tuple[CompletionRequest, list[Prompt]]:
        """The request without its prompt text, and its prompts, at least one.

        `names` reads its field names, and `check` returns how many tokens a context holds. Both may run in a thread.
        Raises InvalidRequest, ContextLengthExceeded, QueueFull, and what `check` raises.
        """
        system_prompt = tenant.system_prompt if tenant.system_in_completions else ""

        def read() -> tuple[CompletionRequest, list[Prompt]]:
            request = read_request(CompletionRequest, body, names)
            context_tokens = check(request)
            self._check_room(tenant, system_prompt, context_tokens)
            prompts = self.prompts(
                request.prompt,
                context_tokens,
                parse_special=bool(request.parse_special),
                system_prompt=system_prompt,
                suffix=request.suffix or "",
            )
            # free the texts, possibly megabytes
            return request.model_copy(update={"prompt": None, "suffix": None}), prompts

        is_large = len(body) + len(system_prompt) > INLINE_BYTES
        return await self._off_loop_if(is_large, tenant.name, read, len(body))

    async def chat(
        self, tenant: Tenant, body: bytes, names: Names, check: Callable[[ChatRequest], int]
    ) -> tuple[ChatRequest, Prompt]:
        """The request and the rendered conversation. See `completion`."""
        system_prompt = tenant.system_prompt

        def read(request: ChatRequest | None = None) -> tuple[ChatRequest, Prompt | Found]:
            return self._begun(tenant, request or read_request(ChatRequest, body, names), check)

        if len(body) + len(system_prompt) > INLINE_BYTES:
            return await self._seen(tenant, *await self._pool.run(tenant.name, read, len(body)), check)
        request = read_request(ChatRequest, body, names)
        is_long = len(request.messages) > INLINE_MESSAGES or bool(request.tools)
        begun = await self._off_loop_if(is_long, tenant.name, functools.partial(read, request), len(body))
        return await self._seen(tenant, *begun, check)

    async def translated(
        self,
        tenant: Tenant,
        translate: Callable[[], ChatRequest],
        check: Callable[[ChatRequest], int],
        size_bytes: int,
        *,
        is_counted: bool = False,
    ) -> tuple[ChatRequest, Prompt]:
        """As `chat`, for a request that `translate` makes of a body of `size_bytes`. All of it runs in a thread.

        One that `is_counted` only has its tokens counted, so no limits of requests that run apply.
        """
        begun = await self._pool.run(tenant.name, lambda: self._begun(tenant, translate(), check), size_bytes)
        return await self._seen(tenant, *begun, check, is_counted=is_counted)

    def _begun(
        self, tenant: Tenant, request: ChatRequest, check: Callable[[ChatRequest], int]
    ) -> tuple[ChatRequest, Prompt | Found]:
        """The rendered conversation, or the images that must be decoded before."""
        context_tokens = check(request)
        self._check_room(tenant, tenant.system_prompt, context_tokens)
        if (found := find_images(request.messages, self._images.settings, self._image_info())) is not None:
            return request.model_copy(update={"messages": found.messages}), found
        return self._rendered(tenant, request, context_tokens)

    def _rendered(
        self, tenant: Tenant, request: ChatRequest, context_tokens: int, places: ImagePlaces | None = None
    ) -> tuple[ChatRequest, Prompt]:
        prompt = self.conversation(request, context_tokens, system_prompt=tenant.system_prompt, places=places)
        return request.model_copy(update={"messages": [], "tools": None}), prompt

    async def _seen(
        self,
        tenant: Tenant,
        request: ChatRequest,
        begun: Prompt | Found,
        check: Callable[[ChatRequest], int],
        *,
        is_counted: bool = False,
    ) -> tuple[ChatRequest, Prompt]:
        """The request and its conversation, once its images are decoded.

        Raises InvalidRequest, QueueFull, EngineUnavailable, and what refuses the request in any case.
        """
        if isinstance(begun, Prompt):
            return request, begun
        context_tokens, info = check(request), self._image_info()
        if info is None:
            raise EngineUnavailable("the running engine cannot read images")
        if len(begun.files) * info.tokens >= context_tokens:
            raise ContextLengthExceeded.of(len(begun.files) * info.tokens, context_tokens, at_least=True)
        if not is_counted:
            self._check_early(tenant, len(begun.files) * info.tokens)
        images = await self._images.read(tenant.name, begun.files, info.side, tenant_id=tenant.id)
        places = ImagePlaces(begun.marks, images, info)
        return await self._pool.run(
            tenant.name, functools.partial(self._rendered, tenant, request, context_tokens, places)
        )

    async def _off_loop_if(self, large: bool, tenant: str, work: Callable[[], T], size_bytes: int) -> T:
        return await self._pool.run(tenant, work, size_bytes) if large else work()

    def prompts(
        self,
        prompt: Any,
        context_tokens: int,
        *,
        parse_special: bool = False,
        system_prompt: str = "",
        suffix: str = "",
    ) -> list[Prompt]:
        """The prompts of a completion request, at least one, each after the system prompt. With a `suffix`, the model
        is asked for what comes between.

        Raises InvalidRequest, ContextLengthExceeded.
        """

        def text(text: str) -> Prompt:
            if not text and not suffix:
                raise _bad_prompt("must not be empty")
            self._check_length([text, suffix], context_tokens, len(lead))
            tokens = self._chat.prompt(
                text, context_tokens, parse_special=parse_special, system_prompt=system_prompt, suffix=suffix
            )
            return Prompt(tokens, len(lead))

        lead = self._chat.lead(system_prompt) if system_prompt else ()
        if isinstance(prompt, str):
            return [text(prompt)]
        if not isinstance(prompt, list) or not prompt:
            raise _bad_prompt("must be a string, a list of token ids, or a list of either, and not empty")
        if suffix and not isinstance(prompt[0], str):
            raise InvalidRequest("suffix: only allowed with a prompt that is text", param="suffix")
        if isinstance(prompt[0], int):
            return [self._tokens(prompt, context_tokens, lead)]
        if len(prompt) > MAX_PROMPTS:
            raise _bad_prompt(f"at most {MAX_PROMPTS} prompts are allowed in one request")
        result: list[Prompt] = []
        for one in prompt:
            if isinstance(one, str):
                result.append(text(one))
            elif isinstance(one, list):
                result.append(self._tokens(one, context_tokens, lead))
            else:
                raise _bad_prompt("a list of prompts must hold strings or lists of token ids")
        return result

    def conversation(
        self,
        request: ChatRequest,
        context_tokens: int,
        *,
        system_prompt: str = "",
        places: ImagePlaces | None = None,
    ) -> Prompt:
        """The rendered conversation. Raises InvalidRequest, ContextLengthExceeded."""
        options = request.options()
        texts = [
            text
            for message in request.messages
            for key in ("content", "refusal", *REASONING)
            for text in _texts(message.get(key))
        ]
        texts += [text for message in request.messages for text in _arguments(message.get("tool_calls"))]
        self._check_length([system_prompt, *texts], context_tokens)
        return self._chat.conversation(
            request.messages, context_tokens, system_prompt=system_prompt, options=options, images=places
        )

    def _check_room(self, tenant: Tenant, system_prompt: str, context_tokens: int) -> None:
        """Raises SystemPromptTooLong if the system prompt alone fills the context, or the tenant's limit on it."""
        limit = tenant.limits.max_context_tokens
        holds_tokens = min(context_tokens, limit) if limit else context_tokens
        if system_prompt and (count := len(self._chat.lead(system_prompt))) >= holds_tokens:
            raise SystemPromptTooLong(
                f"no request of tenant {tenant.name} fits: its system prompt has {count} tokens, and the context holds "
                f"{holds_tokens}; an administrator can shorten it: tenantctl tenant set {tenant.name} --system @FILE"
            )

    def _tokens(self, tokens: list[Any], context_tokens: int, lead: Sequence[int]) -> Prompt:
        """`lead` are the tokens of the system prompt; they have the BOS, with which the others then do not begin."""
        if not tokens:
            raise _bad_prompt("must not be empty")
        if len(lead) + len(tokens) > context_tokens:
            raise ContextLengthExceeded.of(len(lead) + len(tokens), context_tokens)
        limit = self._vocabulary.n_tokens
        for token in tokens:
            if type(token) is not int or not 0 <= token < limit:
                raise _bad_prompt(f"{excerpt(token)} is not a token id of this model (0 to {limit - 1})")
        if not lead:
            return Prompt(tokens)
        rest = tokens[1:] if tokens[0] == lead[0] == self._vocabulary.bos else tokens
        return Prompt([*lead, *rest], len(lead))

    def _check_length(self, texts: list[str], context_tokens: int, lead_tokens: int = 0) -> None:
        """Refuse a prompt that is far too long, at no more cost than one that just fits. No token is longer than the
        longest piece."""
        at_least = lead_tokens + sum(map(_utf8_bytes, texts)) // self._vocabulary.longest_piece_bytes
        if at_least <= context_tokens and sum(map(len, texts)) > LONG_CHARACTERS * context_tokens:
            # slicing a text adds a few tokens
            at_least = lead_tokens + self._count(texts, 2 * context_tokens + 2) // 2
        if at_least > context_tokens:
            raise ContextLengthExceeded.of(at_least, context_tokens, at_least=True)

    def _count(self, texts: list[str], enough_tokens: int) -> int:
        """Number of tokens in the texts, counted slice by slice until `enough_tokens` are reached."""
        count = 0
        for text in texts:
            for start in range(0, len(text), SLICE_CHARACTERS):
                count += len(self._vocabulary.tokenize(text[start : start + SLICE_CHARACTERS], add_bos=False))
                if count >= enough_tokens:
                    return count
        return count


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _texts(content: Any) -> list[str]:
    """The texts in a message's content, even if it is malformed."""
    if isinstance(content, str):
        return [content]
    if isinstance(content, list):
        return [
            text
            for part in content
            if isinstance(part, dict)
            for kind in PART_KINDS
            if isinstance(text := part.get(kind), str)
        ]
    return []


def _arguments(calls: Any) -> list[str]:
    """The arguments of a message's calls, even if it is malformed."""
    found: list[str] = []
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            found += _strings(function.get("arguments"))
    return found


def _strings(value: Any) -> Iterator[str]:
    """The texts in a JSON value, also its keys; not all if it has more values than a call may have."""
    waiting, visited = [value], 0
    while waiting and visited <= MOST_VALUES:
        value = waiting.pop()
        visited += 1
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _bad_prompt(reason: str) -> InvalidRequest:
    return InvalidRequest(f"prompt: {reason}", param="prompt")
