// The Vercel AI SDK on OpenAI's dialect; OPENAI_BASE_URL and OPENAI_API_KEY say where to.

import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, embed, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import assert from "node:assert/strict";
import { LONG, all, model, native, raises, run } from "./cases.mjs";

const MODEL = model("gpt-5");
const provider = createOpenAI({ baseURL: process.env.OPENAI_BASE_URL });
const chat = provider.chat(MODEL);
const silent = { maxRetries: 0, onError: () => {} };

const cases = {
  async plain() {
    const answer = await generateText({ model: chat, prompt: "one two", ...silent });
    assert.equal(answer.text, "echo: one two");
    assert.equal(answer.usage.outputTokens, 3);
  },
  async streamed() {
    const { textStream } = streamText({ model: chat, prompt: "one two", ...silent });
    assert.equal((await all(textStream)).join(""), "echo: one two");
  },
  async responses() {
    const answer = await generateText({ model: provider.responses(MODEL), prompt: "one two", ...silent });
    assert.equal(answer.text, "echo: one two");
    const { textStream } = streamText({ model: provider.responses(MODEL), prompt: "one two", ...silent });
    assert.equal((await all(textStream)).join(""), "echo: one two");
  },
  async tools() {
    const weather = tool({
      description: "today's",
      inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } } }),
      execute: async ({ city }) => `rain in ${city}`,
    });
    const answer = await generateText({
      model: chat,
      prompt: 'call weather {"city":"Oslo"}',
      tools: { weather },
      stopWhen: stepCountIs(2),
      ...silent,
    });
    assert.match(answer.text, /rain in Oslo/);
  },
  async aborted() {
    const controller = new AbortController();
    const { textStream } = streamText({ model: chat, prompt: LONG, abortSignal: controller.signal, ...silent });
    await textStream[Symbol.asyncIterator]().next();
    controller.abort();
  },
};

if (native) {
  cases.embeddings = async () => {
    const answer = await embed({ model: provider.embedding("text-embedding-3-small"), value: "a b", ...silent });
    assert.ok(answer.embedding.length > 0);
  };
}

const faults = {
  rate_limit: () =>
    raises(
      APICallError,
      () => generateText({ model: chat, prompt: "fail with rate_limit", ...silent }),
      (fault) => assert.equal(fault.statusCode, 429),
    ),
};

await run(cases, faults);
