"""Fields of the completion routes that are not ours, and how they are handled. docs/api.md contains this table.

Covers the fields of OpenAI, vLLM, llama-server, Ollama, TGI and SGLang, as of late 2026.
"""

from __future__ import annotations

import json
from typing import Any, Final

from tenantd.api.names import Foreign, Parts, Refused, Same, Taken

MAX_SCHEMA_CHARACTERS: Final = 64 * 1024
"""Maximum length of a schema sent as a string, which is parsed in the event loop."""
MAX_CHOICES_TO_GUIDE: Final = 256
MAX_GUIDE_CHARACTERS: Final = 16 * 1024
"""Maximum length of all choices together."""
_GRAMMAR_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_PREPARED: Final = "the projector determines how images are prepared"
_OUTPUT: Final = "answers have no such field"
_BY_ADMINISTRATOR: Final = "an administrator sets this"


def _schema_format(schema: Any) -> dict[str, Any]:
    """The response format for a schema, which some clients send as a string."""
    if isinstance(schema, str):
        if len(schema) > MAX_SCHEMA_CHARACTERS:
            raise ValueError(f"a schema sent as a string may have at most {MAX_SCHEMA_CHARACTERS} characters")
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as e:
            raise ValueError(f"not valid JSON: {e}") from None
    if not isinstance(schema, dict):
        raise ValueError("must be a JSON schema (an object)")
    return {"type": "json_schema", "json_schema": {"schema": schema}}


def _choice_grammar(choices: Any) -> str:
    """GBNF that matches one of several strings."""
    if not isinstance(choices, list) or not 0 < len(choices) <= MAX_CHOICES_TO_GUIDE:
        raise ValueError(f"must be a list of 1 to {MAX_CHOICES_TO_GUIDE} strings")
    for choice in choices:
        if not isinstance(choice, str) or not choice:
            raise ValueError("a choice must be a string that is not empty")
    if sum(map(len, choices)) > MAX_GUIDE_CHARACTERS:
        raise ValueError(f"all choices together may have at most {MAX_GUIDE_CHARACTERS} characters")
    for choice in choices:
        if not choice.translate({9: None, 10: None, 13: None}).isprintable():
            raise ValueError("a choice must not contain control characters")
    return "root ::= " + " | ".join(f'"{choice.translate(_GRAMMAR_ESCAPES)}"' for choice in choices)


def _any_object(wanted: Any) -> dict[str, str] | None:
    if not isinstance(wanted, bool):
        raise ValueError("must be true or false")
    return {"type": "json_object"} if wanted else None


_BY_SCHEMA: Final = Same("response_format", "a JSON schema", _schema_format)
_BY_CHOICE: Final = Same("grammar", "one of these strings", _choice_grammar)
_NO_REGEX: Final = Refused("write it as a `grammar`")

SETTINGS: Final[dict[str, Foreign]] = {
    # Other names for our fields.
    "n_predict": Same("max_tokens"),
    "num_predict": Same("max_tokens"),
    "max_new_tokens": Same("max_tokens"),
    "n_cmpl": Same("n"),
    "random_seed": Same("seed"),
    "typical": Same("typical_p"),
    "repetition_penalty": Same("repeat_penalty", "over the last `repeat_last_n` tokens"),
    "rep_pen": Same("repeat_penalty"),
    "json_schema": _BY_SCHEMA,
    "guided_json": _BY_SCHEMA,
    "guided_grammar": Same("grammar"),
    "ebnf": Same("grammar"),
    "guided_choice": _BY_CHOICE,
    "structured_outputs": Parts(
        {
            "json": _BY_SCHEMA,
            "choice": _BY_CHOICE,
            "grammar": Same("grammar"),
            "json_object": Same("response_format", "any JSON object", _any_object),
        },
        {
            "regex": _NO_REGEX,
            "structural_tag": Refused("use `response_format`"),
            "whitespace_pattern": Refused("the server chooses the whitespace"),
            "disable_any_whitespace": Refused("the server chooses the whitespace", (False,)),
            "disable_additional_properties": Refused("write it in the schema", (False,)),
            "disable_fallback": Taken("there is only one method"),
        },
    ),
    # No effect on the answer.
    "user": Taken("a label only; the key identifies the client"),
    "metadata": Taken("labels only; they are not stored"),
    "store": Taken("answers are never stored"),
    "safety_identifier": Taken("a label only; the key identifies the client"),
    "prompt_cache_key": Taken("affects speed only"),
    "prompt_cache_options": Taken("affects speed only"),
    "prompt_cache_retention": Taken("affects speed only"),
    "prediction": Taken("affects speed only"),
    "cache_prompt": Taken("affects speed only"),
    "n_cache_reuse": Taken("affects speed only"),
    "cache_salt": Taken("prompts are never shared between tenants"),
    "id_slot": Taken("the scheduler chooses the slot"),
    "keep_alive": Taken("the model stays loaded"),
    "request_id": Taken("the daemon assigns its own; send `x-client-request-id` to find a request in /v1/queue"),
    "session_id": Taken("requests are independent"),
    "stream_interval": Taken("streams have one event per token"),
    "sse_ping_interval": Taken("no pings are sent"),
    "timings_per_token": Taken("see /metrics and `tenantctl requests`"),
    "return_progress": Taken("see `x-queue-position` and /v1/queue"),
    "verbose": Taken("the answer is the same"),
    "guided_decoding_backend": Taken("there is only one"),
    "spaces_between_special_tokens": Taken("control tokens are never shown"),
    "xtc_threshold": Taken("only has an effect with `xtc_probability`"),
    "dry_base": Taken("only has an effect with `dry_multiplier`"),
    "dry_allowed_length": Taken("only has an effect with `dry_multiplier`"),
    "dry_penalty_last_n": Taken("only has an effect with `dry_multiplier`"),
    "dry_sequence_breakers": Taken("only has an effect with `dry_multiplier`"),
    "mirostat_tau": Taken("only has an effect with `mirostat`"),
    "mirostat_eta": Taken("only has an effect with `mirostat`"),
    "dynatemp_exponent": Taken("only has an effect with `dynatemp_range`"),
    "adaptive_decay": Taken("only has an effect with `adaptive_target`"),
    "length_penalty": Taken("only has an effect with `use_beam_search`"),
    "truncation_side": Taken("only has an effect with `truncate_prompt_tokens`"),
    # Not supported: where an answer may end and what it may contain.
    "min_tokens": Refused("answers may end at any token; use `ignore_eos` to run to `max_tokens`", (0,)),
    "stop_token_ids": Refused("pass them as text in `stop`", ([],)),
    "include_stop_str_in_output": Refused("answers end before the stop text", (False,)),
    "bad_words": Refused("use `logit_bias`", ([],)),
    "allowed_token_ids": Refused("use `logit_bias` or `grammar`", ([],)),
    "guided_regex": _NO_REGEX,
    "regex": _NO_REGEX,
    "guided_whitespace_pattern": Refused("the server chooses the whitespace"),
    "format": Refused("use `response_format`"),
    "grammar_lazy": Refused("a grammar applies from the first token", (False,)),
    "grammar_triggers": Refused("a grammar applies from the first token", ([],)),
    "preserved_tokens": Refused("text never becomes a control token", ([],)),
    "skip_special_tokens": Refused("control tokens are never shown", (True,)),
    "repetition_detection": Refused("use `repeat_penalty`"),
    "verbosity": Refused("ask for it in the prompt", ("medium",)),
    "watermark": Refused("answers are not watermarked", (False,)),
    "watermarking": Refused("answers are not watermarked", (False,)),
    "moderation": Refused("moderation is not supported"),
    "n_indent": Refused("use `grammar`", (0,)),
    "t_max_predict_ms": Refused("use `timeout_s`", (-1, 0)),
    # Samplers.
    "top_n_sigma": Refused("there is no such sampler", (-1, 0)),
    "top_a": Refused("there is no such sampler", (0,)),
    "tfs_z": Refused("there is no such sampler", (1,)),
    "smoothing_factor": Refused("there is no such sampler", (0,)),
    "xtc_probability": Refused("there is no such sampler", (0,)),
    "dry_multiplier": Refused("there is no such sampler; use `repeat_penalty`", (0,)),
    "mirostat": Refused("there is no such sampler", (0,)),
    "dynatemp_range": Refused("the temperature is fixed during a request", (0,)),
    "adaptive_target": Refused("there is no such sampler", (-1,)),
    "samplers": Refused("samplers have a fixed order: penalties, top_k, typical_p, top_p, min_p, temperature"),
    "min_keep": Refused("samplers may leave a single token", (0,)),
    "use_beam_search": Refused("tokens are sampled one at a time", (False,)),
    "do_sample": Refused("use `temperature` 0 to pick the most likely token", (True,)),
    "thinking_token_budget": Refused("reasoning is part of the answer; use `max_tokens`"),
    "reasoning_budget_tokens": Refused("reasoning is part of the answer; use `max_tokens`", (-1,)),
    # Decided by the server.
    "lora": Refused(_BY_ADMINISTRATOR, ([],)),
    "lora_path": Refused(_BY_ADMINISTRATOR),
    "priority": Refused(_BY_ADMINISTRATOR, (0,)),
    "num_ctx": Refused(_BY_ADMINISTRATOR),
    "options": Refused("put the settings at the top level", ({},)),
    "n_keep": Refused("the context is never shifted; an answer ends when it is full", (0, -1)),
    "n_discard": Refused("the context is never shifted; an answer ends when it is full", (0,)),
    "truncate": Refused("a prompt that is too long is refused"),
    "truncate_prompt_tokens": Refused("a prompt that is too long is refused"),
    "kv_transfer_params": Refused("the KV cache stays in the daemon", ({},)),
    "ec_transfer_params": Refused("the KV cache stays in the daemon", ({},)),
    "vllm_xargs": Refused("extensions are not supported", ({},)),
    "mm_processor_kwargs": Refused(_PREPARED, ({},)),
    "media_io_kwargs": Refused(_PREPARED, ({},)),
    # Parts of an answer.
    "prompt_logprobs": Refused(_OUTPUT),
    "logprob_token_ids": Refused(_OUTPUT, ([],)),
    "post_sampling_probs": Refused("`logprobs` are always those of the model", (False,)),
    "top_n_tokens": Refused("use `logprobs`", (0,)),
    "return_token_ids": Refused(_OUTPUT, (False,)),
    "return_tokens": Refused(_OUTPUT, (False,)),
    "return_tokens_as_token_ids": Refused(_OUTPUT, (False,)),
    "return_full_text": Refused("the prompt is not sent back", (False,)),
    "response_fields": Refused("answers always have all fields", ([],)),
    "functions": Refused("use `tools`", ([],)),
    "function_call": Refused("use `tool_choice`", ("none", "auto")),
}
"""Fields of both routes."""

COMPLETION: Final[dict[str, Foreign]] = {
    **SETTINGS,
    "max_completion_tokens": Same("max_tokens"),
    "n_probs": Refused("use `logprobs`", (0,)),
    "top_logprobs": Refused("use `logprobs` for their number", (0,)),
    "messages": Refused("send them to /v1/chat/completions"),
    "tools": Refused("send them to /v1/chat/completions", ([],)),
    "tool_choice": Refused("send tools to /v1/chat/completions", ("none", "auto")),
    "parallel_tool_calls": Taken("only has an effect with `tools`"),
    "add_special_tokens": Refused(
        "a prompt starts with the model's own BOS token; send token ids to change that", (True,)
    ),
}
"""Fields of /v1/completions."""

CHAT: Final[dict[str, Foreign]] = {
    **SETTINGS,
    "prompt": Refused("send it to /v1/completions, or as a message"),
    "system": Refused("send it as a message with the role system"),
    "n_probs": Refused("use `logprobs` and `top_logprobs`", (0,)),
    "best_of": Refused("request `n` answers and choose one", (1,)),
    "echo": Refused("the prompt is not sent back", (False,)),
    "parse_special": Refused("text in a chat never becomes a control token", (False,)),
    "suffix": Refused("send it to /v1/completions"),
    "add_special_tokens": Refused("the template adds them", (False,)),
    "modalities": Refused("answers are text", (["text"],)),
    "audio": Refused("answers are text"),
    "web_search_options": Refused("web search is not supported"),
    "documents": Refused("put them in a message", ([],)),
    "chat_template": Refused("the model's own template is used"),
    "generation_prompt": Refused("send it as an assistant's message, with `continue_final_message`", ("",)),
    "reasoning": Refused("use `reasoning_effort`", ({},)),
    "reasoning_format": Refused("reasoning is always in `reasoning_content`", ("auto", "deepseek")),
    "include_reasoning": Refused("reasoning is always in `reasoning_content`", (True,)),
    "separate_reasoning": Refused("reasoning is always in `reasoning_content`", (True,)),
    "think": Refused("use `chat_template_kwargs`, if the model's template has a switch"),
    "thinking": Refused("use `chat_template_kwargs`, if the model's template has a switch"),
    "enable_thinking": Refused("use `chat_template_kwargs`, if the model's template has a switch"),
    "guideline": Refused("put it in a message"),
    "tool_prompt": Taken("only has an effect with `tools`"),
    "safe_prompt": Refused("put it in a message", (False,)),
}
"""Fields of /v1/chat/completions."""

EMBEDDINGS: Final[dict[str, Foreign]] = {
    "content": Same("input"),
    "user": Taken("a label only; the key identifies the client"),
    "keep_alive": Taken("the model stays loaded"),
    "embd_normalize": Refused("vectors have the length 1", (2,)),
    "normalize": Refused("vectors have the length 1", (True,)),
    "input_type": Refused("put the prefix that the model expects into the text"),
    "truncate": Refused("a text that is too long is refused", (False, "NONE")),
    "truncate_prompt_tokens": Refused("a text that is too long is refused"),
    "add_special_tokens": Refused(
        "the tokens that the model expects around a text are added; send token ids to change that", (True,)
    ),
    "priority": Refused(_BY_ADMINISTRATOR, (0,)),
    "options": Refused("put the settings at the top level", ({},)),
}
"""Fields of /v1/embeddings."""

RERANK: Final[dict[str, Foreign]] = {
    "texts": Same("documents"),
    "return_text": Same("return_documents"),
    "user": EMBEDDINGS["user"],
    "keep_alive": EMBEDDINGS["keep_alive"],
    "raw_scores": Refused("scores are those of the model", (True,)),
    "max_tokens_per_doc": EMBEDDINGS["truncate_prompt_tokens"],
    "max_chunks_per_doc": EMBEDDINGS["truncate_prompt_tokens"],
    "truncate": EMBEDDINGS["truncate"],
    "truncate_prompt_tokens": EMBEDDINGS["truncate_prompt_tokens"],
    "rank_fields": Refused("documents are plain texts"),
    "priority": Refused(_BY_ADMINISTRATOR, (0,)),
}
"""Fields of /v1/rerank."""

STREAM_OPTIONS: Final[dict[str, Foreign]] = {
    "include_obfuscation": Taken("no padding is sent"),
    "continuous_usage_stats": Refused("usage is sent once, at the end", (False,)),
}
"""Fields of `stream_options`."""

RESPONSE_FORMAT: Final[dict[str, Foreign]] = {
    "schema": Same("json_schema", "with the type `json_object` or `json_schema`", lambda schema: {"schema": schema}),
}
"""Fields of `response_format`."""

MESSAGE: Final[dict[str, Foreign]] = {
    "annotations": Taken("annotations of an earlier answer; its text is in `content`"),
    "id": Taken("the id of an earlier answer"),
    "cache_control": Taken("affects speed only"),
    "audio": Refused("audio is not supported"),
    "images": Refused("send parts of the type `image_url` in `content`", ([],)),
    "thinking": Refused("put it in `reasoning_content`", ("",)),
    "thinking_blocks": Refused("put reasoning in `reasoning_content`", ([],)),
    "prefix": Refused("use `continue_final_message`", (False,)),
    "partial": Refused("use `continue_final_message`", (False,)),
}
"""Fields of a message, besides those of OpenAI and its reasoning."""

TOOL: Final[dict[str, Foreign]] = {
    "index": Taken("tools keep the order of the list"),
    "cache_control": Taken("affects speed only"),
}
"""Fields of a tool, or of a call of one."""

PART: Final[dict[str, Foreign]] = {
    "annotations": Taken("only the text is used"),
    "cache_control": Taken("affects speed only"),
    "prompt_cache_breakpoint": Taken("affects speed only"),
}
"""Fields of a content part, besides type, text, refusal and image_url."""
