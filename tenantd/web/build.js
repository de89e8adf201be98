// Makes elements. Texts only ever become text: nothing here, or elsewhere in the page, reads markup.

// <name class=…>: properties are set as such, those with a dash as attributes; children are elements or texts.
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key.includes("-") || key === "scope" || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function card(title, ...children) {
  return element("section", { class: "card" }, element("h2", {}, title), ...children);
}

// Replace what is in a place, and leave the focus where it was: on the element with the same id.
export function show(place, ...children) {
  const focused = place.contains(document.activeElement) ? document.activeElement.id : "";
  const { scrollLeft } = place;
  place.replaceChildren(...children);
  place.scrollLeft = scrollLeft;
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

export function tiles(pairs) {
  return pairs.map(([name, value, kind]) =>
    element("div", {}, element("dt", {}, name), element("dd", { class: kind ?? "" }, value)));
}

// Options of a <select>, with the same choice as before if it is still there.
export function options(select, choices) {
  const before = select.value;
  const known = [...select.options].map((option) => option.value + "\n" + option.text).join("\n\n");
  if (known === choices.map(([value, text]) => value + "\n" + text).join("\n\n")) return;
  select.replaceChildren(...choices.map(([value, text]) => element("option", { value }, text)));
  if (choices.some(([value]) => value === before)) select.value = before;
}

// A label and its <select>.
export function selector(id, label, choices, onchange) {
  const select = element("select", { id, onchange });
  options(select, choices);
  return { select, parts: [element("label", { htmlFor: id }, label), select] };
}
