// Drives the console in a headless Chromium, as a person would, and looks at every page with axe-core.
//
// node drive.mjs SETTINGS: a JSON object with `base` (the console's address), `chromium`, `modules` (where npm put playwright-core and
// axe-core), `work` (a directory), and perhaps `screenshots` (a directory). It asks for things that only the test can do by a line on
// standard output, and goes on when a line comes back.

import { createRequire } from "node:module";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";

const settings = JSON.parse(process.argv[2]);
const load = createRequire(`${settings.modules}/`);
const { chromium } = load("playwright-core");
const axe = readFileSync(load.resolve("axe-core/axe.min.js"), "utf8");
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const PATIENCE = 60000;

async function please(what) {
  console.log(what);
  await lines.next();
}

const browser = await chromium.launch({ executablePath: settings.chromium, args: ["--no-sandbox", "--disable-gpu"] });

const wrong = [];

async function open(options) {
  // Colours half-way between two are nobody's choice.
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, acceptDownloads: true, reducedMotion: "reduce", ...options });
  await context.addInitScript(() => { if (location.protocol !== "about:") localStorage.setItem("cairn.user", "root"); });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on("pageerror", (error) => wrong.push(`page error: ${error.message}`));
  page.on("console", (message) => { if (message.type() === "error" && /Content Security|Uncaught/.test(message.text())) wrong.push(message.text()); });
  return page;
}

async function violations(page, where) {
  // Through the debugger, which no policy of the page forbids.
  const session = await page.context().newCDPSession(page);
  await session.send("Runtime.evaluate", { expression: axe });
  const { result } = await session.send("Runtime.evaluate", { expression: "axe.run().then((found) => JSON.stringify(found.violations))", awaitPromise: true, returnByValue: true });
  for (const found of JSON.parse(result.value)) {
    wrong.push(`${where}: ${found.id}: ${found.help}: ${found.nodes.map((node) => node.html).slice(0, 3).join(" | ")}`);
  }
}

async function picture(page, name) {
  if (!settings.screenshots) return;
  mkdirSync(settings.screenshots, { recursive: true });
  await page.screenshot({ path: `${settings.screenshots}/${name}.png` });
}

const safety = (page, level) => page.locator(`#safety.${level}`).waitFor();
const go = (page, hash) => page.goto(`${settings.base}/${hash}`);
const row = (page, name) => page.getByRole("row").filter({ hasText: name });

async function act(page, name, action) {
  await page.getByRole("button", { name: `Actions for ${name}`, exact: true }).click();
  await page.getByRole("dialog").getByRole("button", { name: action }).click();
}

const is = (found, expected, what) => { if (found !== expected) throw new Error(`${what}: ${JSON.stringify(found)} is not ${JSON.stringify(expected)}`); };

async function overview(page, name) {
  await go(page, "");
  await safety(page, "safe");
  await page.getByText("All data is safe").waitFor();
  await row(page, "leader").waitFor();
  await page.locator("#live", { hasText: "live" }).waitFor();
  is(await page.getByRole("region", { name: "Datanodes" }).locator("tbody tr").count(), 3, "datanodes");
  await violations(page, "overview");
  await picture(page, name);
}

async function files(page) {
  await go(page, "#/files/");
  const nasty = "<img src=x onerror=alert(1)> & \"é\".txt";
  const text = `${settings.work}/${nasty}`;
  writeFileSync(text, "line one\nline two\n");
  await page.locator("input[type=file]").setInputFiles(text);
  await row(page, nasty).waitFor();
  await violations(page, "files");
  await picture(page, "console-files");
  await page.getByRole("link", { name: nasty, exact: true }).click();
  await page.getByText("line two").waitFor();
  await page.getByText("with 3 replicas").first().waitFor();
  await violations(page, "file");
  await picture(page, "console-file");
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download" }).click()]);
  is(readFileSync(await download.path(), "utf8"), "line one\nline two\n", "the download");
  await page.getByRole("link", { name: "root" }).click();
  await act(page, nasty, "Rename …");
  await page.getByLabel("New name").fill("renamed.txt");
  await violations(page, "dialog");
  await page.keyboard.press("Enter");
  await row(page, "renamed.txt").waitFor();
  await act(page, "renamed.txt", "Permissions …");
  await page.getByLabel("Mode (octal)").fill("600");
  await page.getByRole("button", { name: "Change", exact: true }).click();
  await row(page, "renamed.txt").filter({ hasText: "600" }).waitFor();
}

async function directories(page) {
  await page.getByRole("button", { name: "New directory …" }).click();
  await page.getByLabel("Name of the directory").fill("a dir");
  await page.keyboard.press("Enter");
  await page.getByRole("link", { name: "a dir/" }).click();
  await page.getByText("Nothing is in it.").waitFor();
  await page.getByRole("link", { name: "root" }).click();
  // Esc is no.
  await act(page, "a dir", "Delete …");
  await page.getByText("It cannot be undone").waitFor();
  await page.keyboard.press("Escape");
  await row(page, "a dir/").waitFor();
  for (const name of ["a dir", "renamed.txt"]) {
    await act(page, name, "Delete …");
    await page.getByRole("button", { name: "Delete", exact: true }).click();
    await row(page, name).waitFor({ state: "detached" });
  }
}

async function loss(page) {
  await go(page, "#/");
  await safety(page, "safe");
  await please("kill");
  await safety(page, "warned");
  await page.getByText(/Since .*\./).first().waitFor();
  await page.getByRole("region", { name: "Datanodes" }).getByText("DEAD").waitFor();
  await violations(page, "a datanode is dead");
  await picture(page, "console-datanode-dead");
  await please("revive");
  await safety(page, "safe");
}

async function looks() {
  const dark = await open({ colorScheme: "dark" });
  await overview(dark, "console-dark");
  is(await dark.evaluate(() => getComputedStyle(document.documentElement).backgroundColor), "rgb(18, 23, 23)", "the dark paper");
  await dark.getByRole("button", { name: "Theme: auto" }).click();
  await dark.getByRole("button", { name: "Theme: light" }).waitFor();
  is(await dark.evaluate(() => getComputedStyle(document.documentElement).backgroundColor), "rgb(255, 255, 255)", "the light paper");
  await violations(dark, "light by choice");
  const phone = await open({ viewport: { width: 390, height: 800 }, hasTouch: true, colorScheme: "dark" });
  for (const hash of ["", "#/files/"]) {
    await go(phone, hash);
    await safety(phone, "safe");
    await phone.getByRole("table").first().waitFor();
    is(await phone.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), true, "no sideways scrolling");
    await violations(phone, `phone ${hash}`);
    await picture(phone, hash ? "console-phone-files" : "console-phone");
  }
}

async function keyboard(page) {
  await page.goto("about:blank");
  await go(page, "#/");
  await safety(page, "safe");
  await page.keyboard.press("Tab");
  is(await page.evaluate(() => document.activeElement.textContent), "Skip to content", "the first stop");
  for (let stop = 0; stop < 20; stop += 1) {
    await page.keyboard.press("Tab");
    if (await page.evaluate(() => document.activeElement.id === "to-files")) break;
  }
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Files" }).waitFor();
}

async function description(page) {
  await page.goto(`${settings.base}/api/v1/`);
  await page.getByText("/api/v1/transactions").waitFor();
  await page.getByText("/api/v1/transactions").click();
  await violations(page, "API");
  await picture(page, "console-api");
}

try {
  const page = await open({ colorScheme: "light" });
  await overview(page, "console-overview");
  for (const step of [files, directories, keyboard, description]) await step(page);
  await looks();
  await loss(page);
} catch (error) {
  wrong.push(error.stack);
}
await browser.close();
for (const line of wrong) console.error(line);
process.exit(wrong.length ? 1 : 0);
