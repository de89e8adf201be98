"""The official OpenAI client on the daemon's Unix socket: complete a prompt, stream a chat, catch an error.

TENANTD_API_KEY=td_… TENANTD_SOCKET=/path/to/tenantd.sock python examples/openai_client.py       (pip install openai)

Works with openai 1.60 and later. Without TENANTD_SOCKET it uses the daemon's default.
"""

import importlib
import os

import openai

SOCKET = os.environ.get("TENANTD_SOCKET") or os.environ.get("XDG_RUNTIME_DIR", "/run") + "/tenantd/tenantd.sock"


def main() -> None:
    if not (key := os.environ.get("TENANTD_API_KEY")):
        raise SystemExit("set TENANTD_API_KEY to the key that `tenantctl tenant add` printed")
    major = int(openai.__version__.partition(".")[0])
    http = importlib.import_module("httpx2" if major >= 3 else "httpx")  # whichever openai was installed with
    client = openai.OpenAI(
        base_url="http://tenantd/v1",
        api_key=key,
        http_client=openai.DefaultHttpxClient(transport=http.HTTPTransport(uds=SOCKET)),
    )
    model = client.models.list().data[0].id
    print(f"model: {model}")

    answer = client.completions.create(model=model, prompt="Once upon a time", max_tokens=24, temperature=0)
    assert answer.usage is not None
    print(f"completed: {answer.choices[0].text.strip()!r} ({answer.usage.completion_tokens} tokens)")

    messages: list = [{"role": "user", "content": "Say hello."}]
    print("streamed: ", end="")
    for chunk in client.chat.completions.create(
        model=model,
        messages=messages,
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ):
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        elif chunk.usage:
            print(f" ({chunk.usage.completion_tokens} tokens)")

    try:
        client.completions.create(model=model, prompt="x", max_tokens=1, temperature=-1)
    except openai.BadRequestError as error:
        print(f"refused: {error.body['message']}")  # type: ignore[index]


if __name__ == "__main__":
    main()
