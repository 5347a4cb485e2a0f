// Runs the cases and faults of a script, and tells which failed. A fault is the provider's own: a gateway remembers
// it for a while. So the environment can choose one (`FAULT`, which may be empty for none) to be tried by itself.

import assert from "node:assert/strict";

// Enough words that a stream is still under way when it is left.
export const LONG = "word ".repeat(400);

// The model to ask: what the environment names, or the provider's own.
export const model = (own) => process.env.MODEL ?? own;

// Whether the provider's own model is asked, so that what only it has can be tried too.
export const native = process.env.MODEL === undefined;

export async function raises(kind, work, check = () => {}) {
  try {
    await work();
  } catch (fault) {
    assert.ok(fault instanceof kind, `${fault?.constructor?.name} in place of ${kind.name}: ${fault}`);
    check(fault);
    return;
  }
  assert.fail(`${kind.name} was not raised`);
}

export async function all(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

export async function run(cases, faults) {
  const { FAULT } = process.env;
  const named = (name) => FAULT === undefined || name === FAULT;
  const chosen = [
    ...Object.entries(cases).filter(() => !FAULT),
    ...Object.entries(faults).filter(([name]) => named(name)),
  ];
  let failed = false;
  for (const [name, work] of chosen) {
    try {
      await work();
      console.log(`ok ${name}`);
    } catch (fault) {
      failed = true;
      console.log(`FAILED ${name}`);
      console.error(fault);
    }
  }
  process.exit(failed ? 1 : 0);
}
