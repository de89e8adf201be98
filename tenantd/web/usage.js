// Usage by day, of the last 31 days.

import { get } from "./ask.js";
import { card, element, options, selector } from "./build.js";
import { Chart, lineColour } from "./charts.js";
import { column, Listing } from "./tables.js";
import { about, count, lasting, moment, whole } from "./units.js";

const EVERY_MS = 60000;
const DAYS = 31;
const DAY_MS = 86400000;
const SHOWN = {
  tokens: ["Tokens", (day) => day.prompt_tokens + day.cached_tokens + day.completion_tokens, count],
  requests: ["Requests", (day) => day.requests, count],
  engine: ["Engine time", (day) => day.engine_micros, lasting],
  cost: ["Cost", (day) => Number(day.cost_nanos) / 1e9, (value) => value.toPrecision(3).replace(/\.?0+$/, "")],
};

export function usageView(session, attempt) {
  let days = [];
  const list = new Listing("Usage by day"), place = element("div");
  const what = selector("what", "Show", Object.entries(SHOWN).map(([name, [title]]) => [name, title]), () => draw());
  const whose = session.administers ? selector("whose", "Tenant", [["", "all"]], () => attempt(ask)) : null;
  const chart = new Chart(place, `Usage in each of the last ${DAYS} days`, () => ({
    series: [{ label: "usage", stroke: lineColour(0), fill: lineColour(0) }],
    form: SHOWN[what.select.value][2], bars: true, range: [-0.6, DAYS - 0.4],
    names: (_, places) => places.map((number) => (Number.isInteger(number) ? dates()[number]?.slice(5) ?? "" : "")),
  }));

  const dates = () => Array.from({ length: DAYS }, (_, number) =>
    moment((Date.now() - (DAYS - 1 - number) * DAY_MS) * 1000, session.timezone, { withTime: false }));

  function draw() {
    const byDate = new Map(days.map((day) => [day.name, day]));
    const value = SHOWN[what.select.value][1];
    chart.set([dates().map((_, number) => number), dates().map((date) => (byDate.has(date) ? value(byDate.get(date)) : null))]);
    list.fill(`Requests that ended on each day in ${session.timezone}, the newest first`, [
      column("Day", (day) => day.name, "name"),
      column("Requests", (day) => whole(day.requests), "number"),
      column("Failed", (day) => whole(day.failed + day.interrupted), "number"),
      column("Prompt tokens", (day) => whole(day.prompt_tokens), "number"),
      column("Cached", (day) => whole(day.cached_tokens), "number"),
      column("Generated", (day) => whole(day.completion_tokens), "number"),
      column("Engine time", (day) => lasting(day.engine_micros), "number"),
      column(session.currency, (day) => about(day.cost_nanos), "number"),
    ], [...days].reverse(), "Nothing was used in this time.");
  }

  const ask = async () => {
    const query = { since: dates()[0] };
    if (whose) query.tenant = whose.select.value;
    days = (await get(session.administers ? "/admin/v1/usage/day" : "/v1/usage/day", query)).groups;
    draw();
  };
  const askTenants = async () => {
    const names = (await get("/admin/v1/status")).tenants.map((one) => one.name).sort();
    options(whose.select, [["", "all"], ...names.map((name) => [name, name])]);
  };
  draw();
  return {
    elements: [card("Usage by day", element("div", { class: "choices" }, ...(whose?.parts ?? []), ...what.parts), place, list.element)],
    polls: [{ every: EVERY_MS, run: ask }, ...(whose ? [{ every: EVERY_MS, run: askTenants }] : [])],
    end() { chart.end(); },
  };
}
