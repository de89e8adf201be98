// The page: logging in and out, which view is shown, and when each asks again.

import { Refused, remember, Unreachable, session as ask } from "./ask.js";
import { element, show } from "./build.js";
import { invoicesView } from "./invoices.js";
import { overviewView } from "./overview.js";
import { requestsView } from "./requests.js";
import { usageView } from "./usage.js";

const VIEWS = {
  overview: ["Overview", overviewView],
  requests: ["Requests", requestsView],
  usage: ["Usage", usageView],
  invoices: ["Invoices", invoicesView],
};
const MOST_PAUSE_MS = 30000;
const place = Object.fromEntries(
  ["who", "nav", "logout", "trouble", "login", "key", "refused", "uninvited", "why", "view", "main"].map((id) => [id, document.getElementById(id)]));

let known = null; // the session
let current = null; // the view that is shown, and what asks again for it
let failures = 0;

function say(where, text) {
  where.textContent = text;
  where.hidden = !text;
}

// -- the session

async function begin() {
  const behind = location.hash.slice(1);
  if (behind && !behind.startsWith("/")) {
    history.replaceState(null, "", location.pathname);
    await logIn({ invitation: behind });
    return;
  }
  const state = await ask();
  if (state.session) enter(state.session);
  else askToLogIn(state.login, "");
}

async function logIn(secret) {
  try {
    const state = await ask("POST", secret);
    remember(state.page);
    enter(state.session);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    askToLogIn(secret.key === undefined ? "invitation" : "key", error.message);
  }
}

function askToLogIn(way, why) {
  leave();
  const takesKey = way === "key";
  place.login.hidden = !takesKey;
  place.uninvited.hidden = takesKey;
  say(takesKey ? place.refused : place.why, why);
  if (takesKey) place.key.focus();
}

function enter(session) {
  known = session;
  for (const one of [place.login, place.uninvited]) one.hidden = true;
  for (const one of [place.nav, place.logout, place.view]) one.hidden = false;
  say(place.who, `${session.administers ? "Administrator" : session.tenant}, ${session.model}`);
  open();
}

function leave() {
  known = null;
  close();
  for (const one of [place.who, place.nav, place.logout, place.view]) one.hidden = true;
  say(place.trouble, "");
}

async function logOut() {
  try {
    await ask("DELETE");
  } finally {
    remember("");
    leave();
    await begin();
  }
}

// -- views

function open() {
  if (!known) return;
  close();
  const wanted = location.hash.slice(2);
  const name = Object.hasOwn(VIEWS, wanted) ? wanted : "overview";
  show(place.nav, ...Object.entries(VIEWS).map(([each, [title]]) =>
    element("a", { id: `to-${each}`, href: `#/${each}`, "aria-current": each === name ? "page" : null }, title)));
  document.title = `${VIEWS[name][0]} – tenantd`;
  current = { polls: [], view: VIEWS[name][1](known, (work) => attempt(work)) };
  show(place.view, ...current.view.elements);
  for (const poll of current.view.polls) follow(current, poll);
}

function close() {
  current?.view.end?.();
  current = null;
  place.view.replaceChildren();
}

// Ask now and again while somebody can see the page.
function follow(mine, { every, run }) {
  let timer = 0, isAsking = false;
  const next = async () => {
    clearTimeout(timer);
    if (isAsking || document.hidden || mine !== current) return; // it goes on when the page is seen again
    isAsking = true;
    await attempt(run);
    isAsking = false;
    if (mine !== current) return;
    timer = setTimeout(next, failures ? Math.max(every, Math.min(MOST_PAUSE_MS, 1000 * 2 ** failures)) : every);
  };
  mine.polls.push(next);
  next();
}

async function attempt(work) {
  try {
    await work();
    failures = 0;
    say(place.trouble, "");
  } catch (error) {
    if (!known) return;
    if (error instanceof Refused && error.status === 401) {
      remember("");
      const state = await ask().catch(() => ({ login: "key" }));
      askToLogIn(state.login, "The session has ended.");
      return;
    }
    failures += 1;
    say(place.trouble, error.message);
    if (!(error instanceof Refused || error instanceof Unreachable)) console.error(error);
  }
}

place.login.addEventListener("submit", (event) => {
  event.preventDefault();
  const key = place.key.value;
  place.key.value = "";
  say(place.refused, "");
  logIn({ key }).catch((error) => say(place.refused, error.message));
});
place.logout.addEventListener("click", () => logOut().catch((error) => say(place.trouble, error.message)));
addEventListener("hashchange", () => {
  if (known && location.hash.startsWith("#/")) {
    open();
    place.main.focus({ preventScroll: true });
  } else {
    begin().catch((error) => say(place.trouble, error.message)); // another invitation
  }
});
document.addEventListener("visibilitychange", () => {
  for (const next of current?.polls ?? []) next();
});
begin().catch((error) => say(place.trouble, error.message));
