// What the page does in Chromium: node in_chromium.mjs OUT < what to open, as JSON. Run by tests/web/in_chromium.py.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const { chromium } = createRequire(`${process.cwd()}/`)("playwright-core");
const out = process.argv[2];
const { owner, listener, keys, markup } = JSON.parse(readFileSync(0, "utf8"));
const DESKTOP = { width: 1200, height: 800 }, PHONE = { width: 390, height: 844 };
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const VIEWS = ["overview", "requests", "usage", "invoices"];

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
const troubles = [];

async function open(colorScheme, viewport) {
  const context = await browser.newContext({ colorScheme, viewport });
  const page = await context.newPage();
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && troubles.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => troubles.push(`error: ${error.message}`));
  page.on("request", (request) => {
    if (new URL(request.url()).hostname !== "127.0.0.1") troubles.push(`asked ${request.url()}`);
  });
  page.on("dialog", (dialog) => {
    if (!dialog.message().startsWith("Cancel request")) troubles.push(`dialog: ${dialog.message()}`);
    dialog.accept();
  });
  return page;
}

async function see(page, view, name) {
  await page.click(`#to-${view}`);
  await page.waitForSelector(`#to-${view}[aria-current=page]`);
  await page.waitForFunction(() => document.querySelector("#view .about, #view .paper")?.textContent, null, { timeout: 60000 });
  await page.waitForTimeout(500);
  await page.screenshot({ path: `${out}/${name}-${view}.png`, fullPage: true });
  const { wide, most } = await page.evaluate(() => ({ wide: document.documentElement.scrollWidth, most: innerWidth }));
  assert.ok(wide <= most, `${name} ${view} is ${wide} wide`);
}

async function noMarkup(page, where) {
  assert.equal(await page.locator("#view img, #view script, #view b, #who *").count(), 0, `markup in ${where}`);
}

async function anOwner() {
  const page = await open("light", DESKTOP);
  await page.goto(owner);
  await page.waitForSelector("#to-overview");
  assert.equal(new URL(page.url()).hash, "", "the invitation is not left in the address");
  await page.waitForFunction(() => document.querySelectorAll(".legend button").length > 1, null, { timeout: 60000 });
  for (const view of VIEWS) {
    await see(page, view, "owner-light");
    await noMarkup(page, view);
  }
  assert.ok((await page.textContent("#view")).includes(markup), "names are shown as they are");
  assert.ok((await page.textContent("#view")).includes(`adapter ${markup}`), "that of an adapter, too");
  await page.emulateMedia({ colorScheme: "dark" });
  for (const view of VIEWS) await see(page, view, "owner-dark");
  await page.setViewportSize(PHONE);
  for (const view of VIEWS) await see(page, view, "owner-phone-dark");
  await withKeys(page);
  await page.reload();
  await page.waitForSelector("#to-overview");
  const other = await page.context().newPage();
  await other.goto(page.url());
  await other.waitForSelector("#to-overview");
  await other.click("#logout");
  await other.waitForSelector("#uninvited:not([hidden])");
  await page.waitForSelector("#uninvited:not([hidden])", { timeout: 60000 });
  assert.equal(await page.evaluate(() => localStorage.length), 0);
  await page.screenshot({ path: `${out}/owner-ended.png` });
}

// With the keyboard alone: another view, another tenant in the chart, and the focus stays while tables are filled again.
async function withKeys(page) {
  await page.focus("#to-requests");
  await page.keyboard.press("Enter");
  await page.waitForSelector("button[id^=cancel-]");
  await page.focus("#to-overview");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".legend button");
  const button = page.locator(".legend button").nth(1), id = await button.getAttribute("id");
  await button.focus();
  await page.keyboard.press("Space");
  await page.waitForSelector(`[id="${id}"][aria-pressed=true]`);
  await page.waitForResponse((answer) => answer.url().includes("/admin/v1/history"));
  await page.waitForResponse((answer) => answer.url().includes("/admin/v1/status"));
  assert.equal(await page.evaluate(() => document.activeElement.id), id);
  await page.keyboard.press("Control+Home");
}

async function aTenant() {
  const page = await open("light", PHONE);
  await page.goto(`${listener}/web/`);
  await page.fill("#key", "td_wrong");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#refused:not([hidden])");
  assert.equal(await page.inputValue("#key"), "", "the key does not stay in the page");
  await page.screenshot({ path: `${out}/tenant-refused.png` });
  await page.fill("#key", keys.acme);
  await page.click("#login button");
  await page.waitForSelector("#to-overview");
  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, document.documentElement.outerHTML]));
  assert.ok(!kept.includes(keys.acme.slice(4)), "the key is nowhere");
  for (const view of VIEWS) {
    await see(page, view, "tenant-phone-light");
    assert.ok(!(await page.textContent("body")).includes("globex"), "another tenant is nowhere");
    await noMarkup(page, view);
  }
  await page.emulateMedia({ media: "print" });
  await page.setViewportSize(DESKTOP);
  await page.screenshot({ path: `${out}/tenant-print.png`, fullPage: true });
  assert.ok(await page.locator(".paper").first().isVisible() && !(await page.locator("header").isVisible()));
  await page.emulateMedia({ media: "screen" });
  await page.click("#to-requests");
  const cancel = page.locator("button[id^=cancel-]").first();
  await cancel.waitFor();
  const id = await cancel.getAttribute("id");
  await cancel.click();
  await page.waitForFunction((gone) => !document.getElementById(gone), id, { timeout: 60000 });
}

try {
  await anOwner();
  const refusedLogins = troubles.length;
  await aTenant();
  // Chromium itself says which answers were errors: the two refusals above are meant, those of the session's end too.
  const meant = /status of (401|403)/;
  assert.deepEqual(troubles.filter((trouble) => !meant.test(trouble)), []);
  assert.ok(refusedLogins <= troubles.length);
  console.log("the page works in Chromium");
} finally {
  await browser.close();
}
