// Asks the daemon. The page's own secret goes with each request; the cookie alone proves nothing.

const STORE = "tenantd-page";
const PATIENCE_MS = 60000;
let page = recall();

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export class Unreachable extends Error {
  constructor() {
    super("The daemon does not answer. The page tries again; if it stays like this, open it anew.");
  }
}

// Tabs of this origin share the secret, which is worthless without the cookie that no script can read.
function recall() {
  try {
    return localStorage.getItem(STORE) ?? "";
  } catch {
    return "";
  }
}

export function remember(secret) {
  page = secret;
  try {
    if (secret) localStorage.setItem(STORE, secret);
    else localStorage.removeItem(STORE);
  } catch {
    // without storage, the session is this tab's
  }
}

async function send(method, path, body) {
  const headers = { accept: "application/json" };
  if (page) headers["x-tenantd-page"] = page;
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer, text;
  try {
    answer = await fetch(path, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin", cache: "no-store", redirect: "error", signal: AbortSignal.timeout(PATIENCE_MS),
    });
    text = await answer.text();
  } catch {
    throw new Unreachable();
  }
  const found = parse(text);
  if (!answer.ok) throw new Refused(answer.status, found?.error?.message ?? `HTTP ${answer.status}`);
  return found;
}

// Amounts stay exact: they are whole numbers that JavaScript would round. A quote within a text has a \ before it, so
// this finds names of fields only.
function parse(text) {
  try {
    return JSON.parse(text.replace(/("[a-z_]*nanos":)(-?\d+)/g, '$1"$2"'));
  } catch {
    return null;
  }
}

export function session(method = "GET", body = undefined) {
  return send(method, "session", body);
}

export function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  return send("GET", "data" + path + (given.length ? "?" + new URLSearchParams(given) : ""));
}

export function post(path) {
  return send("POST", "data" + path);
}
