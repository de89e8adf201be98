// Who is served now and how fast, next to what each is entitled to.

import { get, post } from "./ask.js";
import { card, element, show, tiles } from "./build.js";
import { Chart, hourRange, lineClass, lineColour, times } from "./charts.js";
import { column, Listing, shareBar } from "./tables.js";
import { about, count, lasting, NOTHING, percent, span, whole } from "./units.js";

const LIVE_MS = 2000;
const HISTORY_MS = 5000;
const REPORT_MS = 30000;
const MOST_TENANTS = 200;
const SAMPLES = 720;
const RECENT = 12; // samples of a minute

// What was sampled in the last hour, added to by each answer.
class Past {
  constructor() {
    this.clear();
  }

  clear() {
    this.ended = [];
    this.lines = new Map();
    this.interval = 5;
  }

  get since() {
    return this.ended.length ? this.ended[this.ended.length - 1] : 0;
  }

  // False if it does not continue what is here: then all of it has to be asked for.
  add({ ended_micros: ended, interval_s: interval }, lines) {
    const isFirst = !this.ended.length;
    if (!isFirst && (lines.length !== this.lines.size || lines.some(({ tenant }) => !this.lines.has(tenant)))) return false;
    this.interval = interval;
    this.ended = [...this.ended, ...ended].slice(-SAMPLES);
    for (const line of lines) {
      const before = this.lines.get(line.tenant) ?? {};
      const joined = Object.entries(line).filter(([, values]) => Array.isArray(values))
        .map(([name, values]) => [name, [...(before[name] ?? []), ...values].slice(-SAMPLES)]);
      this.lines.set(line.tenant, Object.fromEntries(joined));
    }
    return true;
  }

  get seconds() {
    return this.ended.map((micros) => micros / 1e6);
  }
}

async function extend(past, ask) {
  if (past.add(...(await ask(past.since)))) return;
  past.clear();
  past.add(...(await ask(0)));
}

function mean(values) {
  const found = values.slice(-RECENT).filter((value) => value !== null);
  return found.length ? found.reduce((sum, value) => sum + value, 0) / found.length : null;
}

function tokensPerSecond(past, lines) {
  const given = lines.map((line) => (line.prompt_tokens.at(-1) ?? 0) + (line.generated_tokens.at(-1) ?? 0));
  return past.ended.length ? `${count(given.reduce((sum, each) => sum + each, 0) / past.interval)}/s` : NOTHING;
}

function fillQueue(list, rows, cancel, { ofAll }) {
  list.fill("In the order in which they should get their first token", [
    column("", (one) => String(one.position), "number"),
    ...(ofAll ? [column("Tenant", (one) => one.tenant, "name long")] : []),
    column("Request", (one) => one.client_request_id ? `${one.client_request_id} (${one.id.slice(-8)})` : one.id.slice(-8), "long"),
    column("Waited", (one) => lasting(one.waited_ms * 1000), "number"),
    column("Est. wait", (one) => span(one.estimated_wait_low_ms, one.estimated_wait_high_ms), "number"),
    ...(cancel ? [column("", (one) => cancelButton(one.id, cancel))] : []),
  ], rows, "Nothing waits.");
}

export function cancelButton(id, cancel) {
  const onclick = () => confirm(`Cancel request ${id.slice(-8)}? What it has generated is billed.`) && cancel(id);
  return element("button", { type: "button", id: `cancel-${id}`, onclick, "aria-label": `Cancel request ${id.slice(-8)}` }, "Cancel");
}

export function overviewView(session, attempt) {
  return session.administers ? ofAll(session, attempt) : ofOne(session, attempt);
}

// -- an administrator's

function ofAll(session, attempt) {
  const past = new Past();
  let status = null, figures = new Map(), chosen = "";
  const top = element("dl", { class: "tiles" });
  const tenants = new Listing("Tenants"), queue = new Listing("Queue");
  const legend = element("div", { class: "legend", role: "group", "aria-label": "Tenant in the charts" });
  const service = element("div"), first = element("div");
  const names = () => [...past.lines.keys()].sort();
  const line = (name, number, more) => ({ label: name, stroke: lineColour(number), width: name === chosen ? 2.5 : 1, ...more });
  const shares = new Chart(service, "Share of service of each tenant in the last hour, and what the chosen one is entitled to", () => ({
    series: [...names().map((name, number) => line(name, number)), ...(chosen ? [{ label: "entitled", stroke: lineColour(names().indexOf(chosen)), width: 1.5, dash: [6, 5] }] : [])],
    form: (value) => percent(value), range: hourRange(past.seconds), names: times(session.timezone), most: 1.02,
  }));
  const waits = new Chart(first, "Longest time to a first token in each five seconds of the last hour", () => ({
    series: names().map((name, number) => line(name, number, { spanGaps: true, points: { show: true, size: name === chosen ? 6 : 4 } })),
    form: (value) => (value ? lasting(value) : "0"), range: hourRange(past.seconds), names: times(session.timezone),
  }));

  function drawCharts() {
    if (!past.lines.has(chosen)) chosen = names()[0] ?? "";
    const lines = names().map((name) => past.lines.get(name));
    const entitled = chosen ? [past.lines.get(chosen).entitled_share] : [];
    shares.set([past.seconds, ...lines.map((each) => each.share), ...entitled]);
    waits.set([past.seconds, ...lines.map((each) => each.first_token_micros)]);
    show(legend, ...names().map((name, number) => {
      const mark = element("span", { class: lineClass(number) });
      const onclick = () => { chosen = name; drawCharts(); };
      return element("button", { type: "button", id: `line-${name}`, onclick, "aria-pressed": String(name === chosen) }, mark, name);
    }), ...(chosen ? [element("span", { class: "key" }, element("span", { class: "mark dashed" }), `what ${chosen} is entitled to`)] : [element("span", { class: "empty" }, "No tenant has had work in the last hour, or since the daemon started.")]));
  }

  function drawTenants() {
    if (!status) return;
    const lines = [...past.lines.values()];
    show(top, ...tiles([
      ["Engine", status.state, status.state === "ready" ? "good" : "bad"],
      ["Running", whole(status.running)], ["Paused", whole(status.paused)], ["Waiting", whole(status.waiting)],
      ["Tokens", tokensPerSecond(past, lines)],
      ["Ledger", status.ledger.healthy ? "healthy" : "not writable", status.ledger.healthy ? "good" : "bad"],
    ]));
    const busy = (one) => one.running + one.paused + one.waiting;
    const sorted = [...status.tenants].sort((a, b) => busy(b) - busy(a) || b.usage - a.usage || (a.name < b.name ? -1 : 1));
    tenants.fill(`${whole(sorted.length)} tenants, those with work first. Times to the first token are of the last hour.`, [
      column("Tenant", (one) => one.name, "name long"),
      column("Share, last minute", (one) => shareOf(past.lines.get(one.name))),
      column("Running", (one) => whole(one.running), "number"),
      column("Paused", (one) => whole(one.paused), "number"),
      column("Waiting", (one) => whole(one.waiting), "number"),
      column("First token, median", (one) => lasting(figures.get(one.name)?.p50_first_token_micros), "number"),
      column("95%", (one) => lasting(figures.get(one.name)?.p95_first_token_micros), "number"),
      column("Budget used", (one) => (one.budget_used_percent === null ? NOTHING : `${one.budget_used_percent}%`), "number"),
      column("Weight", (one) => `${one.weight} (${one.priority})`, "number"),
      column("State", (one) => (one.throttled ? `${one.state}, throttled` : one.state)),
    ], sorted.slice(0, MOST_TENANTS), "No tenants yet: tenantctl tenant add NAME");
    fillQueue(queue, status.queue, cancel, { ofAll: true });
  }

  const cancel = (id) => attempt(async () => {
    await post(`/admin/v1/requests/${encodeURIComponent(id)}/cancel`);
    await live();
  });
  const live = async () => { status = await get("/admin/v1/status"); drawTenants(); };
  const history = async () => {
    await extend(past, async (since) => {
      const found = await get("/admin/v1/history", { since });
      return [found, found.tenants];
    });
    drawCharts();
  };
  const report = async () => {
    const found = await get("/admin/v1/stats", { window: "1h" });
    figures = new Map(found.tenants.map((one) => [one.tenant, one]));
    drawTenants();
  };
  drawCharts();
  return {
    elements: [
      top, card("Tenants", tenants.element), card("Service and entitlement", legend, service),
      element("div", { class: "two" }, card("Longest time to a first token", first), card("Queue", queue.element)),
    ],
    polls: [{ every: LIVE_MS, run: live }, { every: HISTORY_MS, run: history }, { every: REPORT_MS, run: report }],
    end() { shares.end(); waits.end(); },
  };
}

function shareOf(line) {
  const share = line ? mean(line.share) : null, entitled = line ? mean(line.entitled_share) : null;
  if (share === null) return NOTHING;
  return element("span", {}, shareBar(share, entitled), entitled === null ? percent(share) : `${percent(share)} of ${percent(entitled)}`);
}

// -- a tenant's own

function ofOne(session, attempt) {
  const past = new Past();
  let limits = null, figures = null;
  const top = element("dl", { class: "tiles" });
  const queue = new Listing("Queue"), left = new Listing("Limits");
  const service = element("div"), first = element("div");
  const tokens = new Chart(service, "Tokens per second in the last hour", () => ({
    series: [{ label: "generated", stroke: lineColour(0), width: 2 }, { label: "prompt", stroke: lineColour(1), width: 1.5 }],
    form: (value) => count(value), range: hourRange(past.seconds), names: times(session.timezone),
  }));
  const waits = new Chart(first, "Longest time to a first token in each five seconds of the last hour", () => ({
    series: [{ label: "first token", stroke: lineColour(0), width: 1.5, spanGaps: true, points: { show: true, size: 5 } }],
    form: (value) => (value ? lasting(value) : "0"), range: hourRange(past.seconds), names: times(session.timezone),
  }));
  const key = (number, text) => element("span", { class: "key" }, element("span", { class: lineClass(number) }), text);

  function draw() {
    if (!limits) return;
    show(top, ...tiles([
      ["Tenant", limits.state, limits.state === "active" ? "good" : "bad"],
      ["Running", whole(limits.running)], ["Waiting", whole(limits.waiting)],
      ["Tokens", tokensPerSecond(past, [...past.lines.values()])],
      ["First token, median", lasting(figures?.p50_first_token_micros)],
      ["First token, 99%", lasting(figures?.p99_first_token_micros)],
    ]));
    fillLimits(left, limits, session.currency);
  }

  const canCancel = session.scopes.includes("run");
  const cancel = (id) => attempt(async () => {
    await post(`/v1/requests/${encodeURIComponent(id)}/cancel`);
    await live();
  });
  const live = async () => {
    limits = await get("/v1/limits");
    const waiting = limits.waiting ? (await get("/v1/queue")).waiting : [];
    fillQueue(queue, waiting, canCancel ? cancel : null, { ofAll: false });
    draw();
  };
  const history = async () => {
    await extend(past, async (since) => {
      const found = await get("/v1/history", { since });
      return [found, [{ ...found, tenant: "own", ended_micros: undefined }]];
    });
    const own = past.lines.get("own");
    const each = (values) => values.map((value) => value / past.interval);
    tokens.set([past.seconds, each(own.generated_tokens), each(own.prompt_tokens)]);
    waits.set([past.seconds, own.first_token_micros]);
  };
  const report = async () => {
    figures = (await get("/v1/usage", { since: (Date.now() - 3600000) * 1000 })).total;
    draw();
  };
  tokens.set([[], [], []]);
  waits.set([[], []]);
  return {
    elements: [
      top, card("Tokens per second", element("div", { class: "legend" }, key(0, "generated"), key(1, "prompt")), service),
      element("div", { class: "two" }, card("Longest time to a first token", first), card("Queue", queue.element)),
      card("Limits and budgets", left.element),
    ],
    polls: [{ every: LIVE_MS, run: live }, { every: HISTORY_MS, run: history }, { every: REPORT_MS, run: report }],
    end() { tokens.end(); waits.end(); },
  };
}

function fillLimits(list, { rates, budgets, limits }, currency) {
  const rows = [];
  for (const [what, rate] of Object.entries(rates)) {
    if (rate) rows.push([`${what} per minute`, whole(rate.limit), whole(rate.limit - rate.remaining), whole(rate.remaining)]);
  }
  for (const one of budgets) {
    const forms = { money: (value) => `${currency} ${about(value)}`, engine: lasting, tokens: whole };
    const name = `${one.period} budget${one.unit === "engine" ? " of engine time" : ""}${one.key_id ? `, key ${one.key_id}` : ""}`;
    rows.push([name, ...[one.amount + one.topped_up, one.used, one.left].map((value) => forms[one.unit](value))]);
  }
  for (const name of ["max_concurrent", "max_queued"]) {
    if (limits[name] !== null && limits[name] !== undefined) rows.push([name === "max_queued" ? "waiting requests" : "requests at once", whole(limits[name]), "", ""]);
  }
  list.fill("What is in force, and what is left of it", [
    column("Limit", (row) => row[0], "name long"), column("At most", (row) => row[1], "number"),
    column("Used", (row) => row[2], "number"), column("Left", (row) => row[3], "number"),
  ], rows, "No limits are set.");
}
