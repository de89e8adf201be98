// The AI SDK: text, streams, tools and objects, with its providers for OpenAI's chats and responses and for Anthropic.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.env.PACKAGES, "index.js"));
const { generateText, streamText, Output, stepCountIs, tool, APICallError } = require("ai");
const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");
const { createOpenAI } = require("@ai-sdk/openai");
const { createAnthropic } = require("@ai-sdk/anthropic");
const { z } = require("zod");

const server = (name) => ({
  baseURL: `${process.env[`${name}_URL`]}/v1`,
  apiKey: process.env[`${name}_KEY`],
  model: process.env[`${name}_MODEL`],
});
const real = server("REAL");
const scripted = server("SCRIPTED");
const busy = { ...real, apiKey: process.env.BUSY_KEY };
const chats = ({ model, ...where }) => createOpenAICompatible({ name: "tenantd", supportsStructuredOutputs: true, includeUsage: true, ...where })(model);
const responses = ({ model, ...where }) => createOpenAI(where).responses(model);
const messages = ({ model, ...where }) => createAnthropic(where)(model);

const prompt = "Write one sentence about the sea.";
const short = { temperature: 0, maxOutputTokens: 40, maxRetries: 0 };
let asked = [];
const tools = {
  get_weather: tool({
    description: "The weather in a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => {
      asked.push(city);
      return "sunny";
    },
  }),
};

async function calls(model) {
  asked = [];
  const given = { model, tools, prompt: "What is the weather in Paris?", stopWhen: stepCountIs(3), maxOutputTokens: 40, maxRetries: 0 };
  const { text } = await generateText(given);
  assert.equal(text, "It is sunny in Paris.");
  assert.deepEqual(asked, ["Paris"]);
}

async function callsStreamed(model) {
  asked = [];
  const given = { model, tools, prompt: "What is the weather in Paris?", stopWhen: stepCountIs(3), maxOutputTokens: 40, maxRetries: 0 };
  let text = "";
  for await (const part of streamText(given).textStream) text += part;
  assert.equal(text, "It is sunny in Paris.");
  assert.deepEqual(asked, ["Paris"]);
}

const whole = await generateText({ model: chats(real), prompt, ...short });
assert.ok(whole.text && whole.usage.outputTokens > 0);
console.log("chat");

const stream = streamText({ model: chats(real), prompt, ...short });
let text = "";
for await (const part of stream.textStream) text += part;
assert.equal(text, whole.text);
assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
console.log("stream");

await calls(chats(scripted));
console.log("tools");
await callsStreamed(chats(scripted));
console.log("streamed tools");

const schema = z.object({ name: z.string().max(20), is_coastal: z.boolean() });
const shaped = await generateText({
  model: chats(real),
  output: Output.object({ schema }),
  prompt: "Describe Paris.",
  ...short,
  maxOutputTokens: 200,
});
assert.equal(typeof shaped.output.is_coastal, "boolean");
console.log("schema");

await calls(responses(scripted));
await callsStreamed(responses(scripted));
console.log("responses");

await calls(messages(scripted));
await callsStreamed(messages(scripted));
console.log("messages");

const isRefused = (status) => (error) => APICallError.isInstance(error) && error.statusCode === status;
await assert.rejects(generateText({ model: chats({ ...real, apiKey: "wrong" }), prompt, ...short }), isRefused(401));
console.log("wrong key");

await generateText({ model: chats(busy), prompt, ...short });
await assert.rejects(generateText({ model: chats(busy), prompt, ...short }), (error) => {
  const wait = Number(error.responseHeaders["retry-after"]);
  return isRefused(429)(error) && wait >= 1 && wait <= 60;
});
console.log("limit");
