// The status page: asks each second and shows what has changed. Everything is set as text, never as markup.
"use strict";

const PERIOD_MS = 1000;
const ANSWER_MS_MAX = 3000;
// As `onemind top`: rates and quantiles are those of five seconds, curves those of a minute.
const WINDOW_S = 5;
const KEPT = 61;
const APART_S = 0.1;

// ---- Arithmetic: the same as in `spread.rs` and `history.rs`, and held to the same cases. ----

function since(now, then) {
  const same = then && then.bounds && now.bounds && then.bounds.length === now.bounds.length &&
    then.bounds.every((bound, nth) => bound === now.bounds[nth]) && then.total <= now.total;
  if (!same) return now;
  return {
    bounds: now.bounds,
    counts: now.counts.map((count, nth) => Math.max(0, count - then.counts[nth])),
    total: now.total - then.total,
  };
}

function quantile(spread, of) {
  if (!spread || !spread.bounds || !spread.bounds.length || !spread.total) return null;
  const rank = of * spread.total;
  let below = 0, lower = 0;
  for (let nth = 0; nth < spread.bounds.length; nth++) {
    const bound = spread.bounds[nth], count = spread.counts[nth];
    if (count >= rank && count > below) {
      return lower + (bound - lower) * Math.max(0, (rank - below) / (count - below));
    }
    below = count;
    lower = bound;
  }
  return spread.bounds[spread.bounds.length - 1];
}

function merged(spreads) {
  const all = { bounds: [], counts: [], total: 0 };
  for (const spread of spreads) {
    if (!all.bounds.length) {
      all.bounds = spread.bounds;
      all.counts = spread.bounds.map(() => 0);
    }
    all.counts = all.counts.map((count, nth) => count + (spread.counts[nth] || 0));
    all.total += spread.total;
  }
  return all;
}

const looks = [];

function keep(live) {
  const last = looks[looks.length - 1];
  if (last && (last.pid !== live.pid || last.uptime_s > live.uptime_s)) looks.length = 0;
  looks.push(live);
  if (looks.length > KEPT) looks.shift();
}

/// The look some seconds ago that the latest one is compared with.
function earlier() {
  const now = looks[looks.length - 1];
  const then = looks.find((live) => now.uptime_s - live.uptime_s <= WINDOW_S + 0.5);
  return now.uptime_s - then.uptime_s >= APART_S ? then : null;
}

function rate(now, then, count) {
  if (!then) return null;
  const after = count(now), before = count(then);
  const from = before !== undefined && before <= after ? before : 0;
  return (after - from) / (now.uptime_s - then.uptime_s);
}

function curveOf(count) {
  return looks.slice(1).map((now, nth) => Math.max(0, rate(now, looks[nth], count) || 0));
}

// ---- Words for figures ----

function number(value) {
  if (value === null || value === undefined) return "–";
  if (value <= 0) return "0";
  if (value < 9.95) return value.toFixed(1);
  if (value < 9999.5) return Math.round(value).toLocaleString("en");
  if (value < 999500) return (value / 1e3).toFixed(0) + "k";
  if (value < 9.95e6) return (value / 1e6).toFixed(1) + "M";
  if (value < 999.5e6) return (value / 1e6).toFixed(0) + "M";
  return (value / 1e9).toFixed(1) + "G";
}

function count(value) {
  return value < 9999.5 ? Math.round(value || 0).toLocaleString("en") : number(value);
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.00995) return (seconds * 1e3).toFixed(1) + " ms";
  if (seconds < 0.9995) return (seconds * 1e3).toFixed(0) + " ms";
  if (seconds < 9.95) return seconds.toFixed(1) + " s";
  return seconds.toFixed(0) + " s";
}

function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1023.5 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return value.toFixed(value < 9.95 && unit ? 1 : 0) + " " + units[unit];
}

function uptime(seconds) {
  const whole = Math.floor(seconds), two = (part) => String(part).padStart(2, "0");
  const days = Math.floor(whole / 86400), hours = Math.floor(whole / 3600) % 24;
  const minutes = Math.floor(whole / 60) % 60;
  return days ? `${days} d ${two(hours)}:${two(minutes)}` : `${two(hours)}:${two(minutes)}:${two(whole % 60)}`;
}

// ---- The page. Elements stay; only what has changed is touched, so that a selection survives. ----

function element(kind, of, className) {
  const made = document.createElement(kind);
  if (className) made.className = className;
  of.append(made);
  return made;
}

// What is not seen, and what turns the direction of writing.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

function say(where, text) {
  text = String(text).replace(UNSEEN, "\ufffd");
  if (where.textContent !== text) where.textContent = text;
}

function dress(where, className) {
  if (where.className !== className) where.className = className;
}

const cards = new Map();

function card(title, figure, more, tone, curve) {
  let parts = cards.get(title);
  if (!parts) {
    const whole = element("div", document.getElementById("cards"), "card");
    say(element("h2", whole), title);
    parts = { whole, figure: element("p", whole, "figure"), more: element("p", whole, "more") };
    cards.set(title, parts);
  }
  dress(parts.whole, tone ? `card ${tone}` : "card");
  say(parts.figure, figure);
  say(parts.more, more);
  if (curve) draw(parts, curve);
}

function draw(parts, values) {
  const svg = (kind) => document.createElementNS("http://www.w3.org/2000/svg", kind);
  if (!parts.line) {
    const picture = svg("svg");
    picture.setAttribute("viewBox", `0 0 ${KEPT - 2} 100`);
    picture.setAttribute("preserveAspectRatio", "none");
    picture.setAttribute("aria-hidden", "true");
    picture.append(parts.area = svg("polygon"), parts.line = svg("polyline"));
    parts.whole.append(picture);
  }
  const most = Math.max(1e-9, ...values), first = KEPT - 1 - values.length;
  const points = values.map((value, nth) => `${first + nth},${(96 - 92 * value / most).toFixed(1)}`);
  parts.line.setAttribute("points", points.join(" "));
  parts.area.setAttribute("points", points.length ? `${first},100 ${points.join(" ")} ${KEPT - 2},100` : "");
}

const tables = new Map();

/// `columns`: [title, classes]. `rows`: a cell is a text, or { text, tone } or { pill, tone }.
function table(title, columns, rows, leftOut) {
  let parts = tables.get(title);
  if (!parts) {
    const whole = element("section", document.getElementById("tables"), "table");
    const heading = element("h2", whole);
    heading.id = "table-" + tables.size;
    say(heading, title);
    const made = element("table", whole);
    made.setAttribute("aria-labelledby", heading.id);
    const head = element("tr", element("thead", made));
    for (const [name, classes] of columns) {
      const cell = element("th", head, classes);
      cell.scope = "col";
      say(cell, name);
    }
    parts = { whole, body: element("tbody", made), more: element("p", whole, "left-out") };
    tables.set(title, parts);
  }
  parts.whole.hidden = !rows.length;
  while (parts.body.rows.length > rows.length) parts.body.lastChild.remove();
  rows.forEach((row, nth) => fill(parts.body.rows[nth] || blank(parts.body, columns), row, columns));
  parts.more.hidden = !leftOut;
  say(parts.more, `and ${leftOut} more, which are not shown here`);
}

function blank(body, columns) {
  const row = element("tr", body);
  columns.forEach(([, classes], nth) => {
    const cell = element(nth ? "td" : "th", row, classes);
    if (!nth) cell.scope = "row";
  });
  return row;
}

function fill(row, cells, columns) {
  cells.forEach((cell, nth) => {
    const where = row.cells[nth], classes = columns[nth][1] || "";
    const isPill = cell !== null && typeof cell === "object" && cell.pill !== undefined;
    if (isPill) {
      const pill = where.firstElementChild || element("span", where);
      dress(pill, `pill ${cell.tone}`);
      say(pill, cell.pill);
    } else {
      const tone = cell && cell.tone ? ` ${cell.tone}` : "";
      dress(where, classes + tone);
      say(where, cell && cell.text !== undefined ? cell.text : cell);
    }
  });
}

const NUMBER = "number", WIDE = "number wide";
const alarm = (value, tone) => ({ text: number(value), tone: value > 0 ? tone : "" });
const sum = (rows, of) => rows.rows.reduce((all, row) => all + of(row), 0);

function showCards(now, then) {
  const per = (of) => rate(now, then, of);
  // What each look of the last minute gives, with the one before it.
  const minute = (of) => looks.slice(1).map((live, nth) => of(live, looks[nth]) || 0);
  const requests = (live) => live.traffic.requests, errors = (live) => live.traffic.errors;
  const all = per(requests), bad = per(errors);
  const share = all ? `${(100 * bad / all).toFixed(bad ? 2 : 0)} % of requests` : "no requests";
  card("Requests per second", number(all), `${count(now.traffic.requests)} since the start`, "", curveOf(requests));
  card("Errors per second", number(bad), share, bad > 0 ? "bad" : "", curveOf(errors));
  const took = (live, old) => since(live.traffic.duration, old && old.traffic.duration);
  card("Time of a request", duration(quantile(took(now, then), 0.5)), `99 % within ${duration(quantile(took(now, then), 0.99))}`, "",
    minute((live, old) => quantile(took(live, old), 0.5)));
  card("In flight", count(now.traffic.in_flight), `connections ${count(now.traffic.connections)}, WebSockets ${count(now.traffic.websockets)}`, "",
    minute((live) => live.traffic.in_flight));
  const limited = (live) => sum(live.rules, (rule) => rule.refused), shed = (live) => live.traffic.shed;
  const refused = then ? per(limited) + per(shed) : null;
  card("Refused per second", number(refused), `limits (${now.limits.mode}) ${number(per(limited))}, shield ${number(per(shed))}`,
    refused > 0 ? "warn" : "", curveOf((live) => limited(live) + shed(live)));
  const out = (live) => live.traffic.bytes_out;
  card("Bytes out per second", bytes(per(out)), `in ${bytes(per((live) => live.traffic.bytes_in))}`, "", curveOf(out));
  const cpu = (live) => live.process.cpu_seconds || 0, used = per(cpu);
  card("CPU", used === null ? "–" : `${(100 * used).toFixed(0)} %`, `of one processor; ${count(now.process.threads)} threads`, "", curveOf(cpu));
  card("Memory", bytes(now.process.memory_bytes), `open files ${count(now.process.open_files)}`, "", minute((live) => live.process.memory_bytes));
  if (!now.targets.rows.length) return;
  const tokens = (live) => sum(live.models, (model) => model.tokens_out);
  card("Tokens out per second", number(per(tokens)), `in ${number(per((live) => sum(live.models, (model) => model.tokens_in)))}`, "", curveOf(tokens));
  const words = (live) => merged(live.models.rows.map((model) => model.first_token));
  const first = (live, old) => since(words(live), old && words(old));
  card("First word of a model", duration(quantile(first(now, then), 0.5)), `99 % within ${duration(quantile(first(now, then), 0.99))}`, "",
    minute((live, old) => quantile(first(live, old), 0.5)));
}

/// Looks rows of a list up in the look before.
function beside(then, list, key) {
  const rows = new Map(then ? then[list].rows.map((row) => [key(row), row]) : []);
  return (row) => rows.get(key(row));
}

function showPools(now, then) {
  const state = { up: "good", unhealthy: "bad", ejected: "bad" };
  const before = beside(then, "pools", (pool) => pool.name), rows = [];
  let leftOut = now.pools.left_out;
  for (const pool of now.pools.rows) {
    const title = pool.waiting ? `${pool.name} (${pool.waiting} waiting)` : pool.name;
    const old = before(pool), known = new Map(old ? old.endpoints.rows.map((one) => [one.name, one]) : []);
    leftOut += pool.endpoints.left_out;
    if (!pool.endpoints.rows.length) rows.push([title, { text: "no endpoint", tone: "bad" }, "", "", "", "", ""]);
    for (const one of pool.endpoints.rows) {
      const per = (of) => rate(now, then, (live) => live === now ? of(one) : known.has(one.name) ? of(known.get(one.name)) : undefined);
      rows.push([title, one.name, { pill: one.state.replace("_", " "), tone: state[one.state] || "warn" }, count(one.in_flight),
        number(per((of) => of.requests)), alarm(per((of) => of.failures), "bad"), one.last_error || ""]);
    }
  }
  table("Pools", [["Pool", "name"], ["Endpoint", "name"], ["State", ""], ["In flight", NUMBER], ["Requests/s", NUMBER + " wide"],
    ["Failures/s", WIDE], ["Last error", "soft wide"]], rows, leftOut);
}

function showRoutes(now, then) {
  const before = beside(then, "routes", (route) => route.name);
  const rows = now.routes.rows.map((route) => {
    const old = before(route), per = (of) => rate(now, then, (live) => live === now ? of(route) : old && of(old));
    const took = since(route.duration, old && old.duration);
    return [route.name, number(per((of) => of.requests)), alarm(per((of) => of.errors), "bad"), duration(quantile(took, 0.5)),
      duration(quantile(took, 0.99)), count(route.websockets)];
  });
  table("Routes", [["Route", "name"], ["Requests/s", NUMBER], ["Errors/s", NUMBER], ["p50", WIDE], ["p99", NUMBER], ["WebSockets", WIDE]],
    rows, now.routes.left_out);
}

function showModels(now, then) {
  const before = beside(then, "models", (model) => JSON.stringify([model.name, model.provider]));
  const rows = now.models.rows.map((model) => {
    const old = before(model), per = (of) => rate(now, then, (live) => live === now ? of(model) : old && of(old));
    const first = since(model.first_token, old && old.first_token);
    return [model.name, model.provider, number(per((of) => of.calls)), alarm(per((of) => of.failed), "bad"), count(model.fallbacks),
      number(per((of) => of.tokens_in)), number(per((of) => of.tokens_out)), duration(quantile(first, 0.5))];
  });
  table("Models", [["Model", "name"], ["Provider", "name"], ["Calls/s", NUMBER], ["Failed/s", NUMBER], ["Fallbacks", WIDE],
    ["Tokens in/s", WIDE], ["Tokens out/s", WIDE], ["First word", WIDE]], rows, now.models.left_out);
}

function showTargets(now) {
  const state = { closed: ["used", "good"], open: ["left alone", "bad"], half_open: ["on trial", "warn"] };
  const rows = now.targets.rows.map((target) => {
    const [word, tone] = state[target.breaker] || [target.breaker, "warn"];
    const rest = target.open_s ? ` for ${count(target.open_s)} s` : "";
    return [target.name, { pill: word + rest, tone }, count(target.in_flight), duration(target.first_token_s)];
  });
  table("Targets", [["Target", "name"], ["Breaker", ""], ["In flight", NUMBER], ["First word", WIDE]], rows, now.targets.left_out);
}

function showProviders(now) {
  const rows = now.providers.rows.map((one) => {
    const [word, tone] = !one.enabled ? ["off", ""] : !one.resting ? ["used", "good"]
      : one.resting < one.keys ? ["some rest", "warn"] : ["all rest", "bad"];
    return [one.name, { pill: word, tone }, count(one.keys), count(one.resting)];
  });
  table("Providers", [["Provider", "name"], ["Keys", ""], ["All", NUMBER], ["At rest", NUMBER]], rows, now.providers.left_out);
}

function showRules(now, then) {
  const before = beside(then, "rules", (rule) => rule.name);
  const rows = now.rules.rows.map((rule) => {
    const old = before(rule), per = (of) => rate(now, then, (live) => live === now ? of(rule) : old && of(old));
    return [rule.name, number(per((of) => of.allowed)), alarm(per((of) => of.refused), "warn"), count(rule.refused)];
  });
  table("Limits", [["Rule", "name"], ["Allowed/s", NUMBER], ["Refused/s", NUMBER], ["Refused", WIDE]], rows, now.rules.left_out);
}

function show(now) {
  const then = earlier();
  say(document.getElementById("version"), now.version);
  say(document.getElementById("facts"), `revision ${now.revision} · up ${uptime(now.uptime_s)} · pid ${now.pid}`);
  const [word, tone] = now.draining ? ["draining", "warn"] : now.not_ready.length ? ["not ready", "warn"] : ["ready", "good"];
  told(word, tone);
  notice(!now.config_ok ? "The configuration on disk was refused; the one before it serves. See status."
    : now.limits.error ? `Redis is gone: ${now.limits.error}` : now.not_ready.join("; "), now.config_ok && !now.limits.error ? "warn" : "");
  showCards(now, then);
  showPools(now, then);
  showRoutes(now, then);
  showModels(now, then);
  showTargets(now);
  showProviders(now);
  showRules(now, then);
}

function told(word, tone) {
  const state = document.getElementById("state");
  dress(state, `pill ${tone}`);
  say(state, word);
}

function notice(text, tone) {
  const where = document.getElementById("notice");
  where.hidden = !text;
  dress(where, tone);
  say(where, text);
}

let lostSince = null;

function lost() {
  // Said once and then left: a reader of screens need not hear each second of it.
  if (lostSince === null) {
    lostSince = new Date();
    document.body.classList.add("lost");
    told("connection lost", "bad");
    notice(`No answer from the gateway since ${lostSince.toLocaleTimeString()}: these are its last figures. Trying again.`, "");
  }
}

async function look() {
  try {
    const answer = await fetch("/status/live", { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS_MAX) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const live = await answer.json();
    keep(live);
    lostSince = null;
    document.body.classList.remove("lost");
    show(live);
  } catch (error) {
    console.error(error);
    lost();
  }
}

async function watch() {
  // A page that nobody sees asks for nothing.
  if (!document.hidden) await look();
  setTimeout(watch, PERIOD_MS);
}

watch();
