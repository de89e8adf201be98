#!/usr/bin/env bash
# curl, as a shell script uses it: answers as JSON, streams, a tool and its result, refusals, and --retry.
set -euo pipefail

ask() { # KEY URL-AND-PATH BODY [OPTION ...]
  curl -sS --max-time 120 "$2" -H "Authorization: Bearer $1" -H "Content-Type: application/json" -d "$3" "${@:4}"
}
has() { grep -qF -- "$1" <<<"$2" || { printf 'no %s in: %s\n' "$1" "$2"; exit 1; }; }

question='"messages": [{"role": "user", "content": "Write one sentence about the sea."}], "temperature": 0, "max_tokens": 40'
weather='{"role": "user", "content": "What is the weather in Paris?"}'
tools='"tools": [{"type": "function", "function": {"name": "get_weather", "parameters":
  {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]'
chats=/v1/chat/completions

has '"id":"real-model"' "$(curl -sS "$REAL_URL/v1/models" -H "Authorization: Bearer $REAL_KEY")"
echo models

has '"finish_reason":' "$(ask "$REAL_KEY" "$REAL_URL$chats" "{$question}" --fail)"
echo chat

has 'data: [DONE]' "$(ask "$REAL_KEY" "$REAL_URL$chats" "{$question, \"stream\": true}" --fail --no-buffer)"
echo stream

called=$(ask "$SCRIPTED_KEY" "$SCRIPTED_URL$chats" "{\"messages\": [$weather], $tools}" --fail)
has '"finish_reason":"tool_calls"' "$called"
call=$(sed -E 's/.*"tool_calls":(\[[^]]*\]).*/\1/' <<<"$called")
id=$(sed -E 's/.*"id":"(call_[^"]*)".*/\1/' <<<"$call")
result="{\"role\": \"tool\", \"tool_call_id\": \"$id\", \"content\": \"sunny\"}"
said="{\"role\": \"assistant\", \"content\": null, \"tool_calls\": $call}"
has 'It is sunny in Paris.' "$(ask "$SCRIPTED_KEY" "$SCRIPTED_URL$chats" "{\"messages\": [$weather, $said, $result], $tools}" --fail)"
echo tools

refused=$(ask wrong "$REAL_URL$chats" "{$question}" -w '\n%{http_code}')
has '"code":"invalid_api_key"' "$refused"
[[ $refused == *$'\n401' ]]
echo "wrong key"

ask "$BUSY_KEY" "$REAL_URL$chats" "{$question}" --fail >/dev/null
refused=$(ask "$BUSY_KEY" "$REAL_URL$chats" "{$question}" -D - -w '\n%{http_code}')
has 'retry-after: ' "$refused"
[[ $refused == *$'\n429' ]]
echo limit

ask "$BUSY_KEY" "$REAL_URL$chats" "{$question}" --fail --retry 1 >/dev/null
echo waits
