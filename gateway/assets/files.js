// Files: directories, and what a file is made of. Names are any bytes: paths travel percent-encoded, as the gateway gives them.

import { ask, button, duration, el, field, say, size, table, time } from "./elements.js";
import { api, bytes, downloadBlob, downloadUrl, upload, webhdfs, who } from "./server.js";

const PREVIEW_BYTES = 64 * 1024;
const IMAGE_BYTES = 4 * 1024 * 1024;
const IMAGES = [["image/png", [0x89, 0x50, 0x4e, 0x47]], ["image/jpeg", [0xff, 0xd8, 0xff]], ["image/gif", [0x47, 0x49, 0x46, 0x38]]];

const parentOf = (path) => path.slice(0, path.lastIndexOf("/")) || "/";
const below = (directory, name) => `${directory === "/" ? "" : directory}/${encodeURIComponent(name)}`;
const link = (entry) => `#/${entry.kind === "directory" ? "files" : "file"}${entry.path}`;

function shown(path) {
  try { return decodeURIComponent(path); } catch { return path; }
}

function crumbs(path) {
  const parts = path.split("/").filter(Boolean);
  const places = [["/", "/"], ...parts.map((part, index) => [part, `/${parts.slice(0, index + 1).join("/")}`])];
  const items = places.map(([name, to], index) => el("li", {}, index === places.length - 1
    ? el("span", { "aria-current": "location" }, shown(name))
    : el("a", { href: `#/files${to}` }, index === 0 ? "root" : shown(name))));
  return el("nav", { class: "crumbs", "aria-label": "Path" }, el("ol", {}, items));
}

function rename(entry, done) {
  const { input, node } = field("New name", entry.name);
  ask(`Rename ${entry.name}`, node, [["Rename", async () => {
    const name = input.value;
    if (!name || name.includes("/")) throw new Error("A name has at least one character and no slash.");
    const to = below(parentOf(entry.path), name);
    await webhdfs("PUT", entry.path, `op=RENAME&destination=${to}&renameoptions=NONE`);
    say(`${entry.name} is now ${name}`);
    done(to);
  }, "main"]]);
  input.select();
}

function remove(entry, done) {
  const what = entry.kind === "directory" ? `the directory ${entry.name} and everything below it (${entry.size} entries)` : entry.name;
  ask(`Delete ${entry.name}?`, el("p", {}, `This removes ${what}. It cannot be undone.`), [["Delete", async () => {
    await webhdfs("DELETE", entry.path, `op=DELETE&recursive=${entry.kind === "directory"}`);
    say(`${entry.name} is deleted`);
    done();
  }, "danger"]]);
}

function permissions(entry, done) {
  const mode = field("Mode (octal)", entry.mode);
  const owner = field("Owner", entry.owner);
  const group = field("Group", entry.group);
  ask(`Permissions of ${entry.name}`, el("div", {}, mode.node, owner.node, group.node), [["Change", async () => {
    if (mode.input.value !== entry.mode) await webhdfs("PUT", entry.path, `op=SETPERMISSION&permission=${encodeURIComponent(mode.input.value)}`);
    const changed = [["owner", owner.input.value, entry.owner], ["group", group.input.value, entry.group]].filter(([, now, was]) => now !== was);
    if (changed.length) await webhdfs("PUT", entry.path, `op=SETOWNER&${changed.map(([name, now]) => `${name}=${encodeURIComponent(now)}`).join("&")}`);
    say(`Permissions of ${entry.name} are changed`);
    done();
  }, "main"]]);
}

async function save(entry) {
  let href = downloadUrl(entry.path);
  if (who.token()) href = URL.createObjectURL(await downloadBlob(entry.path));
  const anchor = el("a", { href, download: entry.name });
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
  if (href.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(href), 60000);
}

const download = (entry) => save(entry).catch((error) => say(error.message, true));

function menu(entry, refresh) {
  const list = el("div", { class: "list" });
  const close = ask(entry.name, list, []);
  const then = (action) => () => { close(); action(); };
  list.append(
    el("a", { class: "button", href: link(entry), onclick: close }, "Open"),
    ...(entry.kind === "file" ? [button("Download", then(() => download(entry)))] : []),
    button("Rename …", then(() => rename(entry, refresh))),
    button("Permissions …", then(() => permissions(entry, refresh))),
    button("Delete …", then(() => remove(entry, refresh)), "danger"),
  );
}

function columns(refresh) {
  const print = (entry) => `${entry.path} ${entry.kind}`;
  return [
    { title: "Name", kind: "name", print, of: (entry) => el("a", { href: link(entry) }, entry.kind === "directory" ? `${entry.name}/` : entry.name) },
    { title: "Size", kind: "number", of: (entry) => (entry.kind === "file" ? size(entry.size) : entry.kind === "directory" ? `${entry.size} entries` : entry.kind) },
    { title: "Modified", kind: "wide", of: (entry) => time(entry.modified_ms) },
    { title: "Owner", kind: "wide", of: (entry) => `${entry.owner}:${entry.group}` },
    { title: "Mode", kind: "wide", of: (entry) => entry.mode },
    { title: "Replicas", kind: "number wide", of: (entry) => (entry.replication ? String(entry.replication) : "–") },
    {
      title: "Actions",
      print: (entry) => `${entry.path} ${entry.version}`,
      of: (entry) => el("button", { type: "button", "aria-label": `Actions for ${entry.name}`, onclick: () => menu(entry, refresh) }, "⋯"),
    },
  ];
}

async function send(directory, files, line, refresh) {
  for (const file of files) {
    const path = below(directory, file.name);
    const bar = el("progress", { max: file.size || 1, value: 0, "aria-label": `Upload of ${file.name}` });
    line.replaceChildren(`Uploading ${file.name} `, bar);
    const put = (overwrite) => upload(path, file, overwrite, (loaded) => { bar.value = loaded; });
    try {
      await put(false);
      say(`${file.name} is uploaded`);
    } catch (error) {
      if (error.code === "FileAlreadyExistsException") {
        ask(`Replace ${file.name}?`, el("p", {}, "There is a file of this name already. Its content would be gone."), [["Replace", async () => {
          await put(true);
          say(`${file.name} is replaced`);
          refresh();
        }, "danger"]]);
      } else {
        say(`${file.name}: ${error.message}`, true);
      }
    }
  }
  line.replaceChildren();
  refresh();
}

function newDirectory(directory, refresh) {
  const { input, node } = field("Name of the directory", "");
  ask("New directory", node, [["Make", async () => {
    const name = input.value;
    if (!name || name.includes("/")) throw new Error("A name has at least one character and no slash.");
    await webhdfs("PUT", below(directory, name), "op=MKDIRS");
    refresh();
  }, "main"]]);
}

export function directoryPage(main, path) {
  const state = { inode: 0, timer: 0, next: null, entries: [], closed: false };
  const why = el("p", { class: "error", role: "alert" });
  const line = el("p", { role: "status" });
  const more = el("p");
  const empty = el("p", { class: "quiet" });
  const refresh = () => load().catch((error) => { why.textContent = error.message; });
  const entries = table("Entries", columns(refresh), (entry) => entry.path);
  const input = el("input", { type: "file", multiple: true, class: "visually-hidden", "aria-label": "Files to upload", tabindex: -1, onchange: () => { send(path, [...input.files], line, refresh); input.value = ""; } });

  async function load(after) {
    const page = await api("/files", `path=${path}${after ? `&after=${after}` : ""}`);
    if (state.closed) return;
    why.textContent = "";
    state.inode = page.directory.inode;
    state.entries = after ? [...state.entries, ...page.entries] : page.entries;
    state.next = page.next ?? null;
    entries.show(state.entries);
    empty.textContent = state.entries.length ? "" : "Nothing is in it.";
    more.replaceChildren(...(state.next ? [button("More", () => load(state.next).catch((error) => say(error.message, true)))] : []));
  }

  const area = el("div", {
    ondragover: (event) => { event.preventDefault(); area.classList.add("dropping"); },
    ondragleave: () => area.classList.remove("dropping"),
    ondrop: (event) => {
      event.preventDefault();
      area.classList.remove("dropping");
      send(path, [...event.dataTransfer.files], line, refresh);
    },
  }, entries.node, empty, more);
  main.replaceChildren(
    el("h1", {}, "Files"), crumbs(path),
    el("div", { class: "bar-of-actions" }, button("Upload …", () => input.click(), "main"), input, button("New directory …", () => newDirectory(path, refresh))),
    line, why, area,
  );
  load().catch((error) => {
    if (error.code === "NotADirectory") location.replace(`#/file${path}`);
    why.textContent = error.message;
  });
  return {
    show() {},
    changed(set) {
      const here = set.changes.some((change) => change.directory === state.inode);
      // One look for many changes.
      if (here && !state.timer) state.timer = setTimeout(() => { state.timer = 0; if (!state.closed) refresh(); }, 300);
    },
    close() { state.closed = true; clearTimeout(state.timer); },
  };
}

async function preview(entry) {
  if (entry.size === 0) return el("p", { class: "quiet" }, "It is empty.");
  const head = await bytes(entry.path, PREVIEW_BYTES);
  const image = IMAGES.find(([, magic]) => magic.every((byte, index) => head[index] === byte));
  if (image && entry.size <= IMAGE_BYTES) {
    const all = entry.size > head.length ? await bytes(entry.path, entry.size) : head;
    const src = URL.createObjectURL(new Blob([all], { type: image[0] }));
    return el("img", { class: "preview", src, alt: `Preview of ${entry.name}` });
  }
  if (head.includes(0)) return el("p", { class: "quiet" }, "It is no text and no picture: there is no preview.");
  const text = new TextDecoder("utf-8").decode(head, { stream: true });
  return el("div", {},
    el("pre", { tabindex: 0, role: "region", "aria-label": "Preview" }, text),
    entry.size > head.length ? el("p", { class: "quiet" }, `The first ${size(head.length)} of ${size(entry.size)}.`) : null);
}

function replica(one) {
  const [word, kind] = one.alive === null ? ["not known", "warned"] : one.alive ? ["alive", "good"] : ["dead", "bad"];
  return el("li", {}, `datanode ${one.datanode}, ${one.address}, rack ${one.rack || "–"} `, el("span", { class: `state ${kind}` }, word));
}

function extent(one, chunks) {
  const chunk = chunks.get(one.chunk);
  return el("li", {},
    `bytes ${one.offset.toLocaleString()} to ${(one.offset + one.length - 1).toLocaleString()} (${size(one.length)}) are in chunk `,
    el("code", {}, one.chunk), ` from ${one.offset_in_chunk.toLocaleString()}, CRC32C `, el("code", {}, one.crc32c),
    chunk ? [`; the chunk is ${chunk.sealed ? "sealed" : "open"}, epoch ${chunk.epoch}, with ${chunk.replicas.length} replicas:`,
      el("ul", {}, chunk.replicas.map(replica))] : null);
}

export function filePage(main, path) {
  const state = { inode: 0, timer: 0, closed: false };
  const why = el("p", { class: "error", role: "alert" });
  const about = el("dl", { class: "facts" });
  const actions = el("div", { class: "bar-of-actions" });
  const shownBytes = el("div");
  const extents = el("ol", { class: "plain" });
  const more = el("p");
  const reload = () => load().catch((error) => { why.textContent = error.message; });

  async function load(offset) {
    const details = await api("/files/details", `path=${path}${offset === undefined ? "" : `&offset=${offset}`}`);
    if (state.closed) return;
    const entry = details.file;
    if (entry.kind === "directory") return location.replace(`#/files${path}`);
    const chunks = new Map(details.chunks.map((chunk) => [chunk.id, chunk]));
    const lines = details.extents.map((one) => extent(one, chunks));
    if (offset === undefined) extents.replaceChildren(...lines);
    else extents.append(...lines);
    if (!extents.firstChild) extents.append(el("li", { class: "quiet" }, "It has none."));
    more.replaceChildren(...(details.next === undefined ? [] : [button("More", () => load(details.next).catch((error) => say(error.message, true)))]));
    if (offset !== undefined) return;
    state.inode = entry.inode;
    describe(entry);
    shownBytes.replaceChildren(entry.kind === "file" ? await preview(entry).catch((error) => el("p", { class: "error" }, error.message)) : "");
  }

  function describe(entry) {
    const list = [["Size", size(entry.size)], ["Stored", size(entry.allocated)], ["Replicas wanted", String(entry.replication)],
      ["Owner", `${entry.owner}:${entry.group}`], ["Mode", entry.mode], ["Modified", time(entry.modified_ms)],
      ["Age", duration((Date.now() - entry.created_ms) / 1000)], ["Inode", String(entry.inode)]];
    if (entry.target !== undefined) list.push(["Leads to", entry.target]);
    about.replaceChildren(...list.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
    actions.replaceChildren(
      ...(entry.kind === "file" ? [button("Download", () => download(entry), "main")] : []),
      button("Rename …", () => rename(entry, (to) => { location.hash = `#/file${to}`; })),
      button("Permissions …", () => permissions(entry, reload)),
      button("Delete …", () => remove(entry, () => { location.hash = `#/files${parentOf(path)}`; }), "danger"),
    );
  }

  main.replaceChildren(el("h1", {}, shown(path.slice(path.lastIndexOf("/") + 1))), crumbs(path), actions, why, about,
    el("h2", {}, "Preview"), shownBytes, el("h2", {}, "Extents, chunks and replicas"), extents, more);
  reload();
  return {
    show() {},
    changed(set) {
      const mine = set.changes.some((change) => change.inode === state.inode && (change.kind === "content" || change.kind === "attributes"));
      if (mine && !state.timer) state.timer = setTimeout(() => { state.timer = 0; if (!state.closed) reload(); }, 500);
    },
    close() { state.closed = true; clearTimeout(state.timer); },
  };
}
