// Tables: columns say how a row is shown.

import { element, show } from "./build.js";

// A column: its title, what it shows of a row, and whether that is a number, a name of the row, or a long text.
export function column(title, value, kind = "") {
  return { title, value, kind };
}

// A place for a table that is filled again and again. Wide ones scroll in it, also with the keyboard.
export class Listing {
  constructor(label) {
    this.about = element("p", { class: "about" });
    this.scroll = element("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": label });
    this.element = element("div", {}, this.about, this.scroll);
  }

  // What the rows are, the rows, or what is said if there are none.
  fill(about, columns, rows, otherwise) {
    this.about.textContent = rows.length ? about : otherwise;
    this.scroll.hidden = !rows.length;
    const head = columns.map(({ title, kind }) => element("th", { scope: "col", class: kind }, title));
    const body = rows.map((row) => element("tr", {}, ...columns.map((each) => cell(each, row))));
    show(this.scroll, element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body)));
  }
}

function cell({ value, kind }, row) {
  const shown = value(row);
  if (kind.includes("name")) return element("th", { scope: "row", class: kind }, shown);
  return element("td", { class: kind }, shown);
}

// A bar for a part of a whole, with a mark where its entitlement is.
export function shareBar(share, entitled) {
  const filled = element("span");
  filled.style.width = `${Math.min(100, Math.max(0, share * 100))}%`;
  const bar = element("span", { class: "share", "aria-hidden": "true" }, filled);
  if (entitled !== null) {
    const mark = element("i");
    mark.style.left = `calc(${Math.min(100, entitled * 100)}% - 1px)`;
    bar.append(mark);
  }
  return bar;
}
