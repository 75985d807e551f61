// The overview: nodes, space, work, slow requests, recent changes. In the order in which one asks at three in the morning.

import { ask, button, duration, el, setText, size, svg, table, time } from "./elements.js";

const CHANGES_MAX = 40;
const PATHS_MAX = 1000;
const DATANODES_SHOWN = 50;

export function safetyLine(section, overview) {
  const { level, text, since_ms, since_seen, repair } = overview.safety;
  const lines = [el("p", { class: "line" }, text)];
  if (level !== "safe") {
    const since = since_seen ? `Since ${time(since_ms)}.` : `Since before ${time(since_ms)}, when this gateway began to look.`;
    let next = repair.text;
    if (repair.state === "running") {
      next += repair.seconds_left === null ? " How long that takes is not known yet."
        : ` About ${duration(Math.max(1, repair.seconds_left))} to go.`;
    }
    lines.push(el("p", {}, `${since} ${next}`));
  }
  const print = lines.map((line) => line.textContent).join("\n");
  // Said once, not every two seconds.
  if (section.dataset.print === print && section.dataset.level === level) return;
  section.dataset.print = print;
  section.dataset.level = level;
  section.className = `safety ${level}`;
  section.replaceChildren(...lines);
}

function facts(list) {
  const values = new Map();
  const node = el("dl", { class: "facts" }, list.map((name) => {
    const value = el("dd", {}, "–");
    values.set(name, value);
    return el("div", {}, el("dt", {}, name), value);
  }));
  return { node, set: (name, text) => setText(values.get(name), text) };
}

function heard(node) {
  if (node.heartbeat_age_ms === null) return `over ${duration(node.silent_ms / 1000)} ago`;
  return node.heartbeat_age_ms < 5000 ? "now" : `${duration(node.heartbeat_age_ms / 1000)} ago`;
}

function disks(node) {
  const failed = node.volumes.filter((volume) => volume.failed).length;
  return failed ? `${node.volumes.length - failed} of ${node.volumes.length}` : String(node.volumes.length);
}

function showDisks(node) {
  const list = el("ul", { class: "plain" }, node.volumes.map((volume) => el("li", {}, el("code", {}, volume.path),
    volume.failed ? el("span", { class: "state bad" }, ` withdrawn: ${volume.reason}`)
      : ` ${size(volume.used_bytes)} used, ${size(volume.available_bytes)} available, ${volume.replicas} replicas`)));
  ask(`Disks of datanode ${node.id}`, list, []);
}

function datanodeState(node) {
  if (!node.alive) return "bad";
  return node.state === "in service" && !node.volumes.some((volume) => volume.failed) ? "good" : "warned";
}

function namenodeWord(node) {
  if (!node.reachable) return "does not answer";
  return node.disk_low ? "disk almost full" : "answers";
}

function namenodeState(node) {
  if (!node.reachable) return "bad";
  return node.disk_low ? "warned" : "good";
}

const NAMENODES = [
  { title: "Address", kind: "name", of: (node) => node.address },
  { title: "Role", of: (node) => node.role },
  { title: "State", of: namenodeWord, state: namenodeState },
  { title: "Lag", kind: "number", of: (node) => (node.lag === 0 ? "none" : `${node.lag} entries`) },
  { title: "Id", kind: "number wide", of: (node) => String(node.id) },
];

const DATANODES = [
  { title: "Id", kind: "number", of: (node) => String(node.id) },
  { title: "Address", kind: "name", of: (node) => node.address },
  { title: "State", of: (node) => node.state, state: datanodeState },
  { title: "Heard", of: heard },
  { title: "Used", kind: "number", of: (node) => size(node.used_bytes) },
  { title: "Available", kind: "number wide", of: (node) => size(node.available_bytes) },
  { title: "Replicas", kind: "number wide", of: (node) => String(node.replicas) },
  { title: "Writes", kind: "number wide", of: (node) => String(node.write_streams) },
  { title: "Copies", kind: "number wide", of: (node) => String(node.copies) },
  { title: "Rack", kind: "wide", of: (node) => node.rack },
  { title: "Version", kind: "wide", of: (node) => node.version },
  {
    title: "Disks",
    print: (node) => JSON.stringify(node.volumes.map((volume) => [volume.path, volume.failed])),
    of: (node) => el("button", { type: "button", "aria-label": `Disks of datanode ${node.id}: ${disks(node)}`, onclick: () => showDisks(latest(node)) }, disks(node)),
  },
];

const SLOW = [
  { title: "When", of: (one) => time(one.time_ms) },
  { title: "Took", kind: "number", of: (one) => duration(one.duration_ms / 1000) },
  { title: "Operation", of: (one) => one.operation },
  { title: "Path", kind: "name", of: (one) => one.path },
  { title: "User", kind: "wide", of: (one) => one.user },
  { title: "Status", kind: "number", of: (one) => String(one.status) },
];

let known = null;

function latest(node) {
  return known?.status?.datanodes.find((one) => one.id === node.id) ?? node;
}

function trend(samples) {
  if (samples.length < 3) return el("p", { class: "quiet" }, "The trend begins when this gateway has looked for a few minutes.");
  const [first, last] = [samples[0], samples.at(-1)];
  const most = Math.max(...samples.map((sample) => sample.used_bytes), 1);
  const least = Math.min(...samples.map((sample) => sample.used_bytes));
  const low = Math.max(0, least - (most - least || most) * 0.1);
  const x = (sample) => ((sample.time_ms - first.time_ms) / Math.max(1, last.time_ms - first.time_ms)) * 1000;
  const y = (sample) => 95 - ((sample.used_bytes - low) / Math.max(1, most - low)) * 90;
  const points = samples.map((sample) => `${x(sample).toFixed(1)},${y(sample).toFixed(1)}`).join(" ");
  const label = `Used space from ${size(first.used_bytes)} at ${time(first.time_ms)} to ${size(last.used_bytes)} now`;
  return el("div", {},
    svg("svg", { class: "trend", viewBox: "0 0 1000 100", preserveAspectRatio: "none", role: "img", "aria-label": label }, svg("polyline", { points })),
    el("p", { class: "quiet" }, `${label}; between ${size(least)} and ${size(most)}.`));
}

// Paths of inodes as last heard: of what is gone nobody else knows any more where it was.
const lastPaths = new Map();

function word(change) {
  const named = change.kind === "named" || change.kind === "unnamed";
  const known = change.path ?? (named ? undefined : lastPaths.get(change.inode));
  if (change.path !== undefined) {
    lastPaths.delete(change.inode);
    lastPaths.set(change.inode, change.path);
    if (lastPaths.size > PATHS_MAX) lastPaths.delete(lastPaths.keys().next().value);
  }
  const what = known ?? `${change.inode_kind} ${change.inode}`;
  const where = change.directory === 1 ? "the root" : `directory ${change.directory}`;
  const name = change.name === undefined ? what : change.name;
  switch (change.kind) {
    case "named": return known ? `${known} appeared` : `${name} appeared in ${where}`;
    case "unnamed": return known ? `${known} was removed` : `${name} went from ${where}`;
    case "content": return `${what} has new content`;
    case "attributes": return `${what} has new attributes`;
    default: return known ? `${known} (removed): its data is given back` : `${what} (removed) is gone`;
  }
}

export function overviewPage(main) {
  const counts = facts(["Files", "Directories", "Data", "Chunks", "Clients", "Term"]);
  const namenodes = table("Namenodes", NAMENODES, (node) => node.id);
  const datanodes = table("Datanodes", DATANODES, (node) => node.id);
  const slow = table("Slow requests", SLOW, (one) => `${one.time_ms} ${one.operation} ${one.path}`);
  const space = facts(["Capacity", "Used", "Available", "Full in"]);
  const used = svg("rect", { x: 0, y: 0, height: 10, width: 0 });
  const bar = svg("svg", { class: "bar", viewBox: "0 0 1000 10", preserveAspectRatio: "none", role: "img", "aria-label": "Used space" }, used);
  const curve = el("div");
  const work = el("ul", { class: "plain" });
  const changes = el("ol", { class: "plain" });
  const noSlow = el("p", { class: "quiet" });
  const more = el("p");
  let all = false;

  function showDatanodes(status) {
    const order = { bad: 0, warned: 1, good: 2 };
    const sorted = [...status.datanodes].sort((a, b) => order[datanodeState(a)] - order[datanodeState(b)] || a.id - b.id);
    const hidden = all ? 0 : Math.max(0, sorted.length - DATANODES_SHOWN);
    datanodes.show(hidden ? sorted.slice(0, DATANODES_SHOWN) : sorted);
    if (hidden && !more.firstChild) more.append(button(`Show all ${sorted.length}`, () => { all = true; more.replaceChildren(); showDatanodes(known.status); }));
  }

  function show(overview) {
    known = overview;
    const status = overview.status;
    if (status) {
      counts.set("Files", status.counts.files.toLocaleString());
      counts.set("Directories", status.counts.directories.toLocaleString());
      counts.set("Data", size(status.counts.live_bytes));
      counts.set("Chunks", status.counts.chunks.toLocaleString());
      counts.set("Clients", status.sessions.toLocaleString());
      counts.set("Term", String(status.term));
      const head = Math.max(...status.namenodes.map((node) => node.matched_index), 0);
      namenodes.show(status.namenodes.map((node) => ({ ...node, lag: head - node.matched_index })));
      showDatanodes(status);
    }
    const { capacity_bytes, used_bytes, available_bytes, full_in_seconds, samples } = overview.space;
    space.set("Capacity", size(capacity_bytes));
    space.set("Used", size(used_bytes));
    space.set("Available", size(available_bytes));
    space.set("Full in", full_in_seconds === null ? "not filling up" : duration(full_in_seconds));
    const share = capacity_bytes ? used_bytes / capacity_bytes : 0;
    used.setAttribute("width", String(1000 * share));
    bar.setAttribute("aria-label", `${(100 * share).toFixed(1)} % used`);
    curve.replaceChildren(trend(samples));
    const jobs = overview.work.map((one) => el("li", {}, one.text,
      one.of ? [" ", el("progress", { max: one.of, value: one.of - one.left, "aria-label": one.text })] : null));
    work.replaceChildren(...(jobs.length ? jobs : [el("li", { class: "quiet" }, "Nothing is to be done.")]));
    slow.show(overview.slow);
    setText(noSlow, overview.slow.length ? "" : overview.user ? "None of the requests to this gateway took over a second." : "Sign in to see yours.");
  }

  function changed(set, isNew) {
    for (const change of set.changes) {
      const when = isNew ? `${time(Date.now())} ` : "";
      changes.prepend(el("li", {}, el("span", { class: "quiet" }, `${when}#${set.index} `), word(change)));
    }
    while (changes.children.length > CHANGES_MAX) changes.lastChild.remove();
  }

  main.replaceChildren(
    el("h1", {}, "Overview"),
    el("h2", {}, "Namenodes"), namenodes.node,
    el("h2", {}, "Datanodes"), datanodes.node, more,
    el("h2", {}, "Space"), space.node, el("p", {}, bar), curve, counts.node,
    el("h2", {}, "Repairs and other work"), work,
    el("h2", {}, "Slow requests"), slow.node, noSlow,
    el("h2", {}, "Recent changes"), changes,
  );
  return { show, changed, close() {} };
}
