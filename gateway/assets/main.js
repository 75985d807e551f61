// The console: which page is shown, who looks, and what comes in live.

import { ask, el, field, setText } from "./elements.js";
import { directoryPage, filePage } from "./files.js";
import { overviewPage, safetyLine } from "./overview.js";
import { events, theme, who } from "./server.js";

const main = document.getElementById("main");
const safety = document.getElementById("safety");
const live = document.getElementById("live");
const THEMES = ["auto", "light", "dark"];
const HISTORY = 40;

let page = null;
let last = null;
let listening = null;
let history = [];

function route(first) {
  const hash = location.hash || "#/";
  // The skip link leads into the page, not to another one.
  if (hash === "#main") return main.focus();
  page?.close();
  const at = (prefix) => (hash.startsWith(prefix) ? hash.slice(prefix.length) || "/" : null);
  const tidy = (path) => (path.length > 1 ? path.replace(/\/+$/, "") : path);
  const [file, directory] = [at("#/file/"), at("#/files")];
  if (file !== null) page = filePage(main, tidy(`/${file}`));
  else if (directory !== null) page = directoryPage(main, tidy(directory));
  else page = overviewPage(main);
  const onFiles = file !== null || directory !== null;
  document.getElementById("to-overview").toggleAttribute("aria-current", false);
  document.getElementById("to-files").toggleAttribute("aria-current", false);
  document.getElementById(onFiles ? "to-files" : "to-overview").setAttribute("aria-current", "page");
  document.title = onFiles ? "Files – Cairn" : "Cairn";
  if (last) page.show(last);
  if (!onFiles) history.forEach((set) => page.changed(set, false));
  if (!first) main.focus();
}

function told(name, data) {
  if (name === "overview") {
    last = data;
    safetyLine(safety, data);
    page?.show(data);
  } else if (name === "changes") {
    history = [...history, data].slice(-HISTORY);
    page?.changed(data, Date.now() - listening.since > 2000);
  } else if (name === "lost") {
    history = [];
  }
}

function listen() {
  listening?.stop.abort();
  history = [];
  listening = { stop: new AbortController(), since: Date.now() };
  const words = { live: "live", lost: "not connected", refused: "sign in" };
  events("/events", listening.stop.signal, told, (state) => {
    setText(live, words[state]);
    listening.since = Date.now();
    if (state === "lost") {
      safetyLine(safety, { safety: { level: "bad", text: "This gateway does not answer: what is shown below is old.", since_ms: Date.now(), since_seen: true, repair: { state: "waiting", text: "It is asked again and again; or open the console of another namenode.", seconds_left: null } } });
    }
  });
}

function showWho() {
  setText(document.getElementById("who"), who.token() ? "Signed in" : who.user() ? `User: ${who.user()}` : "Sign in");
}

document.getElementById("who").addEventListener("click", () => {
  const name = field("User name", who.user());
  const secret = field("Token, where the gateway asks for one", who.token(), "password");
  ask("Who are you?", el("div", {}, name.node, secret.node), [["Sign in", () => {
    who.signIn(name.input.value.trim(), secret.input.value.trim());
    showWho();
    listen();
    route(true);
  }, "main"]]);
});

function showTheme() {
  const chosen = theme.get();
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  setText(document.getElementById("theme"), `Theme: ${chosen}`);
}

document.getElementById("theme").addEventListener("click", () => {
  theme.set(THEMES[(THEMES.indexOf(theme.get()) + 1) % THEMES.length]);
  showTheme();
});

window.addEventListener("hashchange", () => route(false));
showTheme();
showWho();
route(true);
listen();
