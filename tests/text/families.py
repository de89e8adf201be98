"""Short chat templates in the manner of several families of models: how each marks turns, and what it makes of a system
message."""

from __future__ import annotations

from typing import Final, NamedTuple


class Family(NamedTuple):
    """`system` tells what becomes of a system message: shown, refused, or left out. `vocabularies` have its marks."""

    template: str
    system: str
    vocabularies: tuple[str, ...]


_CHATML: Final = """\
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""

_LLAMA_2: Final = """\
{%- set system = '' %}
{%- if messages[0].role == 'system' %}
    {%- set system = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for m in messages %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
    {%- if m.role == 'user' %}
        {{- bos_token + '[INST] ' + (system if loop.first else '') + m.content | trim + ' [/INST]' }}
    {%- else %}
        {{- ' ' + m.content | trim + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}"""

_LLAMA_3: Final = """\
{{- bos_token }}
{%- for m in messages %}
    {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

_GEMMA: Final = """\
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'system' %}{{ raise_exception('there is no system role') }}{% endif %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
    {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}
    {{- m.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{% endif %}"""

_MISTRAL: Final = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content + '\\n\\n' %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {{- '[INST] ' + (system if loop.last else '') + m.content + '[/INST]' }}
    {%- else %}
        {{- ' ' + m.content + eos_token }}
    {%- endif %}
{%- endfor %}"""

_PHI: Final = """\
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role in ('user', 'assistant') %}{{- '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{% endif %}"""

_COMMAND_R: Final = """\
{{- bos_token }}
{%- for m in messages %}
    {%- set role = {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'}.get(m.role, 'USER') %}
    {{- '<|START_OF_TURN_TOKEN|><|' + role + '_TOKEN|>' + m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"""

_DEEPSEEK: Final = """\
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'user' %}{{- 'User: ' + m.content + '\\n\\n' }}
    {%- elif m.role == 'assistant' %}{{- 'Assistant: ' + m.content + eos_token }}
    {%- else %}{{- m.content + '\\n\\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'Assistant:' }}{% endif %}"""

FAMILIES: Final = {
    "chatml": Family(_CHATML, "shown", ("qwen2", "qwen35")),
    "llama 2": Family(_LLAMA_2, "shown", ("llama-spm", "phi-3")),
    "llama 3": Family(_LLAMA_3, "shown", ("llama-bpe",)),
    "gemma": Family(_GEMMA, "refused", ("gemma-4",)),
    "mistral": Family(_MISTRAL, "shown", ("llama-spm",)),
    "phi": Family(_PHI, "left out", ("phi-3",)),
    "command-r": Family(_COMMAND_R, "shown", ("command-r",)),
    "deepseek": Family(_DEEPSEEK, "shown", ("deepseek-llm", "deepseek-coder")),
}
