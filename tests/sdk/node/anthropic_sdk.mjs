// The official Anthropic SDK; ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY say where to.

import Anthropic from "@anthropic-ai/sdk";
import assert from "node:assert/strict";
import { LONG, all, model, native, raises, run } from "./cases.mjs";

const MODEL = model("claude-sonnet-4-5");
const client = new Anthropic({ maxRetries: 0 });
const tools = [
  { name: "weather", input_schema: { type: "object", properties: { city: { type: "string" } } } },
];
const ask = (content, more = {}, sdk = client) =>
  sdk.messages.create({ model: MODEL, max_tokens: 4096, messages: [{ role: "user", content }], ...more });

const cases = {
  async messages() {
    const answer = await ask("one two");
    assert.equal(answer.content[0].text, "echo: one two");
    assert.equal(answer.stop_reason, "end_turn");
    assert.equal(answer.usage.output_tokens, 3);
  },
  async streamed() {
    const stream = client.messages.stream({
      model: MODEL,
      max_tokens: 4096,
      messages: [{ role: "user", content: "one two" }],
    });
    assert.equal(await stream.finalText(), "echo: one two");
    assert.equal((await stream.finalMessage()).usage.output_tokens, 3);
  },
  async tools() {
    const first = await ask('call weather {"city":"Oslo"}', { tools });
    const call = first.content.find((block) => block.type === "tool_use");
    assert.deepEqual(call.input, { city: "Oslo" });
    const second = await client.messages.create({
      model: MODEL,
      max_tokens: 100,
      tools,
      messages: [
        { role: "user", content: "call weather" },
        { role: "assistant", content: first.content },
        { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "rain" }] },
      ],
    });
    assert.match(second.content[0].text, /rain/);
  },
  async aborted() {
    const stream = await ask(LONG, { stream: true });
    let seen = 0;
    for await (const _ of stream) if (++seen === 5) break;
  },
  async errors() {
    await raises(Anthropic.AuthenticationError, () =>
      ask("one", {}, new Anthropic({ apiKey: "sk-wrong", maxRetries: 0 })),
    );
    await raises(Anthropic.NotFoundError, () => ask("one", { model: "none-such" }));
    await raises(Anthropic.BadRequestError, () => ask("fail with context_length"));
  },
};

if (native) {
  Object.assign(cases, {
    async token_counting() {
      const counted = await client.messages.countTokens({
        model: MODEL,
        messages: [{ role: "user", content: "a b c" }],
      });
      assert.equal(counted.input_tokens, 3);
    },
    async models() {
      assert.ok((await all(client.models.list())).length > 0);
    },
  });
}

const faults = {
  rate_limit: () => raises(Anthropic.RateLimitError, () => ask("fail with rate_limit")),
  server: () => raises(Anthropic.InternalServerError, () => ask("fail with server")),
  inside_a_stream: () =>
    raises(Anthropic.APIError, async () => all(await ask("a b c d break off", { stream: true }))),
};

await run(cases, faults);
