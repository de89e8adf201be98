// The invoices of a month, to read and to print.

import { get } from "./ask.js";
import { element, options, selector, show } from "./build.js";
import { invoicePaper } from "./invoice.js";
import { moment } from "./units.js";

const EVERY_MS = 300000;
const MONTHS = 24;
const MOST_PAPERS = 200;

function lastMonths(timezone) {
  const [year, month] = moment(Date.now() * 1000, timezone, { withTime: false }).split("-").map(Number);
  return Array.from({ length: MONTHS }, (_, number) => {
    const months = year * 12 + month - 1 - number;
    return `${Math.floor(months / 12)}-${String((months % 12) + 1).padStart(2, "0")}`;
  });
}

export function invoicesView(session, attempt) {
  const papers = element("div");
  const refresh = () => attempt(ask);
  const month = selector("month", "Month", lastMonths(session.timezone).map((each) => [each, each]), refresh);
  const whose = session.administers ? selector("whose", "Tenant", [["", "all"]], refresh) : null;
  const print = element("button", { type: "button", class: "main-button", disabled: true, onclick: () => window.print() }, "Print");

  function draw(found, isOpen) {
    const shown = found.slice(0, MOST_PAPERS);
    print.disabled = !shown.length;
    const rest = found.length > shown.length ? [element("p", { class: "empty no-print" }, `Only the first ${MOST_PAPERS} are shown; choose a tenant.`)] : [];
    show(papers, ...(shown.length ? shown.map((paper) => invoicePaper(paper, isOpen)) : [element("p", { class: "card empty" }, "Nothing to bill for this month.")]), ...rest);
  }

  const ask = async () => {
    const path = `/invoices/${month.select.value}`;
    if (!whose) {
      const found = await get(`/v1${path}`);
      draw(found.invoice ? [found.invoice] : [], found.open);
      return;
    }
    const found = await get(`/admin/v1${path}`, { tenant: whose.select.value });
    if (!whose.select.value) options(whose.select, [["", "all"], ...[...new Set(found.tenants.map((one) => one.tenant))].sort().map((name) => [name, name])]);
    draw(found.tenants, found.open);
  };
  return {
    elements: [element("div", { class: "choices no-print" }, ...month.parts, ...(whose?.parts ?? []), print), papers],
    polls: [{ every: EVERY_MS, run: ask }],
  };
}
