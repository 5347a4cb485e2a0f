// The official Google Gen AI SDK; GEMINI_BASE_URL and GEMINI_API_KEY say where to.

import { ApiError, GoogleGenAI } from "@google/genai";
import assert from "node:assert/strict";
import { LONG, all, model, native, raises, run } from "./cases.mjs";

const MODEL = model("gemini-2.5-pro");
const connect = (apiKey = process.env.GEMINI_API_KEY) =>
  new GoogleGenAI({ apiKey, httpOptions: { baseUrl: process.env.GEMINI_BASE_URL } });
const client = connect();
const ask = (contents, config = {}, sdk = client, name = MODEL) =>
  sdk.models.generateContent({ model: name, contents, config });
const has = (...codes) => (fault) => assert.ok(codes.includes(fault.status), `${fault.status}: ${fault}`);

const cases = {
  async generate() {
    const answer = await ask("one two");
    assert.equal(answer.text, "echo: one two");
    assert.equal(answer.usageMetadata.totalTokenCount, 5);
  },
  async streamed() {
    const chunks = await all(await client.models.generateContentStream({ model: MODEL, contents: "one two" }));
    assert.equal(chunks.map((chunk) => chunk.text ?? "").join(""), "echo: one two");
  },
  async tools() {
    const parameters = { type: "OBJECT", properties: { city: { type: "STRING" } } };
    const tools = [{ functionDeclarations: [{ name: "weather", parameters }] }];
    const answer = await ask('call weather {"city":"Oslo"}', { tools });
    assert.deepEqual(answer.functionCalls[0].args, { city: "Oslo" });
  },
  async structured() {
    const answer = await ask("who is Ada", {
      responseMimeType: "application/json",
      responseSchema: { type: "OBJECT", properties: { name: { type: "STRING" } } },
    });
    assert.deepEqual(JSON.parse(answer.text), { name: "Ada" });
  },
  async aborted() {
    const controller = new AbortController();
    const config = { abortSignal: controller.signal };
    const stream = await client.models.generateContentStream({ model: MODEL, contents: LONG, config });
    await stream.next();
    controller.abort();
    await stream.next().catch(() => {});
  },
  async errors() {
    await raises(ApiError, () => ask("one", {}, connect("wrong")), has(400, 401, 403));
    await raises(ApiError, () => ask("one", {}, client, "none-such"), has(404));
    await raises(ApiError, () => ask("fail with context_length"), has(400));
  },
};

if (native) {
  Object.assign(cases, {
    async token_counting() {
      assert.equal((await client.models.countTokens({ model: MODEL, contents: "a b c" })).totalTokens, 3);
    },
    async embeddings() {
      const answer = await client.models.embedContent({ model: "gemini-embedding-001", contents: ["a", "b"] });
      assert.equal(answer.embeddings.length, 2);
    },
    async models() {
      assert.ok((await all(await client.models.list())).length > 0);
    },
  });
}

const faults = {
  rate_limit: () => raises(ApiError, () => ask("fail with rate_limit"), has(429)),
  server: () => raises(ApiError, () => ask("fail with server"), has(500, 502, 503)),
};

await run(cases, faults);
