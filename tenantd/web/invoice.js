// An invoice as it is printed.

import { element } from "./build.js";
import { coins, moment, money, places, whole } from "./units.js";

function lines(...found) {
  return element("p", { class: "lines" }, found.filter((line) => line).join("\n"));
}

function title(paper) {
  if (paper.number === null) return "Invoice (draft)";
  return `${paper.kind === "credit_note" ? "Credit note" : "Invoice"} ${paper.number}`;
}

function facts(paper) {
  const day = (micros) => moment(micros, paper.timezone, { withTime: false });
  const found = [["Period", `${day(paper.since_micros)} to ${day(paper.until_micros - 1)} (${paper.timezone})`]];
  if (paper.number !== null) found.unshift(["Number", paper.number], ["Date", day(paper.issued_micros)]);
  if (paper.credits) found.push(["Corrects invoice", paper.credits]);
  if (paper.customer.reference) found.push(["Your reference", paper.customer.reference]);
  found.push(["Account", `${paper.tenant} (id ${paper.tenant_id})${paper.is_removed ? ", removed" : ""}`]);
  if (!paper.credits) found.push(["Requests", whole(paper.requests)]);
  return element("dl", {}, ...found.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function label(line) {
  if (!line.unit) return "";
  return line.adapter ? `${line.model}, adapter ${line.adapter}` : line.model ?? "";
}

function quantity(line) {
  const price = line.unit_price_nanos;
  const each = (per) => (price === null || price === undefined ? "" : `${money(price)} per ${per}`);
  if (!line.unit) return ["", "", each("month")];
  if (line.unit === "µs") return [(line.quantity / 3.6e9).toFixed(6), "hours", each("hour")];
  const unit = Math.abs(line.quantity) === 1 ? line.unit.replace(/s$/, "") : line.unit;
  return [whole(line.quantity), unit, each("million")];
}

function items(paper) {
  const shown = places([paper.total_nanos, ...paper.lines.map((line) => line.amount_nanos)]);
  const labels = new Set(paper.lines.map(label).filter((text) => text));
  const rows = [];
  let last = "";
  for (const line of paper.lines) {
    const own = labels.size > 1 ? label(line) : "";
    if (own && own !== last) {
      rows.push(element("tr", {}, element("th", { scope: "rowgroup", colSpan: 3, class: "long" }, own)));
      last = own;
    }
    const [amount, unit, price] = quantity(line);
    const what = line.unit ? line.description.split(" at ")[0] : line.description;
    rows.push(element("tr", {}, element("td", { class: "long" }, what, element("span", { class: "price" }, price)),
      element("td", { class: "number" }, unit ? `${amount} ${unit}` : ""),
      element("td", { class: "number" }, money(line.amount_nanos, shown))));
  }
  return [...rows, ...sums(paper, shown)];
}

function sums(paper, shown) {
  const row = (name, value, kind = "sums") => element("tr", { class: kind },
    element("th", { scope: "row", colSpan: 2, class: "number" }, name), element("td", { class: "number" }, value));
  const found = [row("Total", money(paper.total_nanos, shown))];
  if (BigInt(paper.rounded_nanos) !== BigInt(paper.total_nanos)) found.push(row("Rounded", coins(paper.rounded_nanos, paper.currency)));
  if (paper.tax_percent !== "0") found.push(row(`${paper.tax_name} ${paper.tax_percent} %`.trim(), coins(paper.tax_nanos, paper.currency)));
  const isCredit = paper.kind === "credit_note";
  const due = BigInt(paper.payable_nanos) * (isCredit ? -1n : 1n);
  return [...found, row(`${isCredit ? "Amount credited" : "Amount due"} (${paper.currency})`, coins(due, paper.currency), "sums due")];
}

export function invoicePaper(paper, isOpen) {
  const { issuer, customer } = paper;
  const head = ["Item", "Quantity", paper.currency].map((text, number) =>
    element("th", { scope: "col", class: number ? "number" : "" }, text));
  return element("article", { class: "paper" },
    element("h2", {}, title(paper) + (isOpen && paper.number === null ? ", so far" : "")),
    element("div", { class: "parties" },
      lines(issuer.name, issuer.address, issuer.tax_id && `Tax ID: ${issuer.tax_id}`),
      lines(customer.name || paper.tenant, customer.address, customer.email, customer.tax_id && `Tax ID: ${customer.tax_id}`)),
    facts(paper),
    element("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Items" },
      element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...items(paper)))),
    paper.terms ? element("p", { class: "terms" }, paper.terms) : null);
}
