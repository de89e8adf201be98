// The newest requests, and ending those that are live.

import { get, post } from "./ask.js";
import { card, element, selector } from "./build.js";
import { cancelButton } from "./overview.js";
import { column, Listing } from "./tables.js";
import { about, lasting, moment, NOTHING, whole } from "./units.js";

const EVERY_MS = 10000;
const MOST = 50;
const STATES = ["waiting", "running", "paused", "stop", "length", "cancelled", "disconnected", "failed", "interrupted"];

export function requestsView(session, attempt) {
  const base = session.administers ? "/admin/v1/requests" : "/v1/requests";
  const list = new Listing("Requests");
  const refresh = () => attempt(ask);
  const state = selector("state", "State", [["", "any"], ...STATES.map((each) => [each, each])], refresh);
  const canCancel = session.administers || session.scopes.includes("run");
  const cancel = (id) => attempt(async () => {
    await post(`${base}/${encodeURIComponent(id)}/cancel`);
    await ask();
  });

  function draw(rows) {
    list.fill(`The newest ${MOST} at most, times in ${session.timezone}`, [
      column("Created", (one) => moment(one.created_micros, session.timezone), "name"),
      ...(session.administers ? [column("Tenant", (one) => one.tenant, "long")] : []),
      column("Request", (one) => one.id.slice(-8)),
      column("State", (one) => element("span", { class: one.error ? "bad" : "", title: one.error }, one.live_state ?? one.state)),
      column("Model", (one) => one.model, "long"),
      column("Prompt", (one) => whole(one.prompt_tokens + one.cached_tokens), "number"),
      column("Generated", (one) => whole(one.completion_tokens), "number"),
      column("First token", (one) => lasting(one.first_token_micros), "number"),
      column("Duration", (one) => lasting(one.duration_micros), "number"),
      column(session.currency, (one) => (one.live_state ? NOTHING : about(one.cost_nanos, 4)), "number"),
      ...(canCancel ? [column("", (one) => (one.live_state ? cancelButton(one.id, cancel) : ""))] : []),
    ], rows, "There are no such requests.");
  }

  const ask = async () => draw((await get(base, { limit: MOST, state: state.select.value })).requests);
  const again = element("button", { type: "button", onclick: refresh }, "Refresh");
  return {
    elements: [card("Requests", element("div", { class: "choices" }, ...state.parts, again), list.element)],
    polls: [{ every: EVERY_MS, run: ask }],
  };
}
