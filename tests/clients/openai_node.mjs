// What a program does with the official client for JavaScript: whole and streamed, parsed, with tools, refused.
//
// As openai_python.py: TENANTD_URL or TENANTD_SOCKET, TENANTD_API_KEY and BUSY_KEY. NODE_PACKAGES is the folder that npm
// installed openai and undici in. Prints what it checked, one a line.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.env.NODE_PACKAGES, "index.js"));
const OpenAI = require("openai").default ?? require("openai");
const model = "tiny";
const messages = [{ role: "user", content: "Look at the sky and at the sea." }];
const endless = { max_tokens: 12, seed: 1, ignore_eos: true };
const schema = {
  type: "object",
  properties: { at: { type: "string", enum: ["sky", "sea"] }, twice: { type: "boolean" } },
  required: ["at", "twice"],
  additionalProperties: false,
};

function connect(apiKey) {
  const settings = { baseURL: `${process.env.TENANTD_URL ?? "http://tenantd"}/v1`, apiKey, maxRetries: 0 };
  if (!process.env.TENANTD_SOCKET) return new OpenAI(settings);
  const { Agent, fetch } = require("undici");
  const dispatcher = new Agent({ connect: { socketPath: process.env.TENANTD_SOCKET } });
  return new OpenAI({ ...settings, fetch, fetchOptions: { dispatcher } });
}

function isLook(text) {
  const { at, twice } = JSON.parse(text);
  return ["sky", "sea"].includes(at) && typeof twice === "boolean";
}

const client = connect(process.env.TENANTD_API_KEY);

const models = [];
for await (const one of client.models.list()) models.push(one.id);
assert.deepEqual(models, [model]);
console.log("models");

const whole = await client.chat.completions.create({ model, messages, ...endless });
assert.equal(whole.usage.completion_tokens, 12);
console.log("chat");

let text = "";
let usage = null;
const stream_options = { include_usage: true };
const stream = await client.chat.completions.create({ model, messages, ...endless, stream: true, stream_options });
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.deepEqual(usage, whole.usage);
console.log("chat streamed");

const completion = await client.completions.create({ model, prompt: "Once", ...endless });
assert.equal(completion.usage.completion_tokens, 12);
console.log("completion");

const asked = { model, messages, max_tokens: 200, seed: 1 };
const response_format = { type: "json_schema", json_schema: { name: "look", strict: true, schema } };
const parsed = await client.chat.completions.parse({ ...asked, response_format });
assert.ok(isLook(parsed.choices[0].message.content));
console.log("parse");

const runner = client.chat.completions.stream({ ...asked, response_format });
assert.equal(await runner.finalContent(), parsed.choices[0].message.content);
console.log("stream helper");

const tools = [{ type: "function", function: { name: "look", description: "Looks.", parameters: schema } }];
const called = await client.chat.completions.create({ ...asked, tools, tool_choice: "required" });
const [call] = called.choices[0].message.tool_calls;
assert.equal(called.choices[0].finish_reason, "tool_calls");
assert.equal(call.function.name, "look");
assert.ok(isLook(call.function.arguments));
console.log("tools");

const calling = client.chat.completions.stream({ ...asked, tools, tool_choice: "required" });
const [again] = (await calling.finalMessage()).tool_calls;
assert.equal(again.function.arguments, call.function.arguments);
console.log("tools streamed");

const answered = await client.chat.completions.create({
  ...endless,
  model,
  messages: [...messages, called.choices[0].message, { role: "tool", tool_call_id: call.id, content: "blue" }],
});
assert.equal(answered.choices[0].finish_reason, "length");
console.log("tool result");

await assert.rejects(client.chat.completions.create({ ...asked, temperature: 3 }), OpenAI.BadRequestError);
await assert.rejects(client.chat.completions.create({ ...asked, model: "gpt-4" }), OpenAI.NotFoundError);
await assert.rejects(connect("wrong").models.list(), OpenAI.AuthenticationError);
console.log("errors");

const busy = connect(process.env.BUSY_KEY);
const once = { model, prompt: "x", max_tokens: 1 };
await busy.completions.create(once);
await assert.rejects(busy.completions.create(once), (error) => {
  assert.ok(error instanceof OpenAI.RateLimitError);
  assert.equal(error.code, "requests_per_minute_exceeded");
  const wait = Number(error.headers.get("retry-after"));
  return wait >= 1 && wait <= 60;
});
console.log("retry-after");

const many = await Promise.all(
  Array.from({ length: 8 }, () => client.chat.completions.create({ model, messages, ...endless })),
);
assert.equal(new Set(many.map((one) => one.choices[0].message.content)).size, 1);
console.log("at once");
