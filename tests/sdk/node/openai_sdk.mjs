// The official OpenAI SDK; OPENAI_BASE_URL and OPENAI_API_KEY say where to.

import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";
import { LONG, all, model, native, raises, run } from "./cases.mjs";

const MODEL = model("gpt-5");
const client = new OpenAI({ maxRetries: 0 });
const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", parameters } }];
const user = (content) => [{ role: "user", content }];
const ask = (content, more = {}, sdk = client) =>
  sdk.chat.completions.create({ model: MODEL, messages: user(content), ...more });

const cases = {
  async chat() {
    const answer = await ask("one two");
    assert.equal(answer.choices[0].message.content, "echo: one two");
    assert.equal(answer.usage.total_tokens, 5);
  },
  async streamed() {
    const chunks = await all(await ask("one two", { stream: true, stream_options: { include_usage: true } }));
    const text = chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join("");
    assert.equal(text, "echo: one two");
    assert.equal(chunks.at(-1).usage.completion_tokens, 3);
  },
  async tools() {
    const messages = user('call weather {"city":"Oslo"}');
    const first = await client.chat.completions.create({ model: MODEL, messages, tools });
    const call = first.choices[0].message.tool_calls[0];
    assert.deepEqual(JSON.parse(call.function.arguments), { city: "Oslo" });
    messages.push(first.choices[0].message, { role: "tool", tool_call_id: call.id, content: "rain" });
    const second = await client.chat.completions.create({ model: MODEL, messages, tools });
    assert.match(second.choices[0].message.content, /rain/);
  },
  async tools_run_by_the_sdk() {
    const runner = client.chat.completions.runTools({
      model: MODEL,
      stream: true,
      messages: user('call weather {"city":"Oslo"}'),
      tools: [
        {
          type: "function",
          function: {
            name: "weather",
            parameters,
            parse: JSON.parse,
            function: ({ city }) => `rain in ${city}`,
          },
        },
      ],
    });
    assert.match(await runner.finalContent(), /rain in Oslo/);
  },
  async structured() {
    const schema = {
      type: "object",
      properties: { name: { type: "string" }, age: { type: "integer" } },
      required: ["name", "age"],
      additionalProperties: false,
    };
    const response_format = { type: "json_schema", json_schema: { name: "person", strict: true, schema } };
    const answer = await client.chat.completions.parse({
      model: MODEL,
      messages: user("who is Ada"),
      response_format,
    });
    assert.deepEqual(JSON.parse(answer.choices[0].message.content), { name: "Ada", age: 7 });
  },
  async responses() {
    const answer = await client.responses.create({ model: MODEL, input: "one two" });
    assert.equal(answer.output_text, "echo: one two");
  },
  async responses_streamed() {
    const stream = client.responses.stream({ model: MODEL, input: "one two" });
    const final = await stream.finalResponse();
    assert.equal(final.output_text, "echo: one two");
  },
  async aborted() {
    const stream = await ask(LONG, { stream: true });
    let seen = 0;
    for await (const _ of stream) if (++seen === 3) break;
    const controller = new AbortController();
    const second = await client.chat.completions.create(
      { model: MODEL, messages: user(LONG), stream: true },
      { signal: controller.signal },
    );
    await second[Symbol.asyncIterator]().next();
    controller.abort();
  },
  async errors() {
    await raises(OpenAI.AuthenticationError, () =>
      ask("one", {}, new OpenAI({ apiKey: "sk-wrong", maxRetries: 0 })),
    );
    await raises(OpenAI.NotFoundError, () => ask("one", { model: "none-such" }), (fault) =>
      assert.equal(fault.code, "model_not_found"),
    );
    await raises(OpenAI.BadRequestError, () => ask("fail with context_length"), (fault) =>
      assert.equal(fault.code, "context_length_exceeded"),
    );
  },
};

if (native) {
  Object.assign(cases, {
    async embeddings() {
      const answer = await client.embeddings.create({
        model: "text-embedding-3-small",
        input: ["a b", "c"],
        dimensions: 4,
      });
      assert.deepEqual(answer.data.map((one) => one.embedding.length), [4, 4]);
    },
    async models() {
      assert.ok((await all(client.models.list())).length > 0);
    },
    async hearing() {
      const file = await toFile(Buffer.from("sound"), "a.mp3");
      const heard = await client.audio.transcriptions.create({ model: "whisper-1", file });
      assert.equal(heard.text, "heard 5 bytes of a.mp3");
    },
  });
}

const faults = {
  rate_limit: () => raises(OpenAI.RateLimitError, () => ask("fail with rate_limit")),
  server: () => raises(OpenAI.InternalServerError, () => ask("fail with server")),
  inside_a_stream: () =>
    raises(OpenAI.APIError, async () => all(await ask("a b c break off", { stream: true }))),
};

await run(cases, faults);
