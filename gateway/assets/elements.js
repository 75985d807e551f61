// Elements of the page, and how facts are written. Text comes from other machines and from names of files, which are any bytes:
// it becomes text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function button(text, onclick, kind) {
  return el("button", { type: "button", class: kind, onclick }, text);
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let unit = 0;
  let value = Number(bytes);
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${value} B` : `${value.toFixed(value < 10 ? 2 : 1)} ${units[unit]}`;
}

export function duration(seconds) {
  if (seconds < 1) return "less than a second";
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let left = Math.round(seconds);
  const words = [];
  for (const [name, length] of parts) {
    const count = Math.floor(left / length);
    left -= count * length;
    if (count > 0) words.push(`${count} ${name}`);
  }
  return words.slice(0, 2).join(" ");
}

export function time(ms) {
  const date = new Date(ms);
  const today = date.toDateString() === new Date().toDateString();
  return today ? date.toLocaleTimeString() : date.toLocaleString();
}

// A table whose rows stay where they are while their facts change: focus and scroll position survive.
// A column has a title, `of(row)` (a string or a node) and perhaps a class.
export function table(caption, columns, key) {
  const head = el("tr", {}, columns.map((column) => el("th", { scope: "col", class: column.kind }, column.title)));
  const body = el("tbody");
  const rows = new Map();
  const node = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    el("table", {}, el("caption", { class: "visually-hidden" }, caption), el("thead", {}, head), body));
  function show(list) {
    const kept = new Set();
    list.forEach((row, place) => {
      const id = key(row);
      kept.add(id);
      let line = rows.get(id);
      if (!line) {
        line = el("tr", {}, columns.map((column) => el("td", { class: column.kind })));
        rows.set(id, line);
      }
      columns.forEach((column, index) => {
        const cell = line.children[index];
        const value = column.of(row);
        if (value instanceof Node) {
          // Made once; what in it changes is made anew only when its fingerprint does.
          const print = column.print ? column.print(row) : id;
          if (cell.dataset.print !== String(print)) {
            cell.replaceChildren(value);
            cell.dataset.print = print;
          }
        } else {
          setText(cell, String(value));
        }
        if (column.state) cell.className = `${column.kind ?? ""} state ${column.state(row)}`;
      });
      if (body.children[place] !== line) body.insertBefore(line, body.children[place] ?? null);
    });
    for (const [id, line] of rows) {
      if (!kept.has(id)) {
        line.remove();
        rows.delete(id);
      }
    }
  }
  return { node, show };
}

// A question in a window. `content` is made of nodes; `actions` are pairs of text and function. A function that returns a promise
// keeps the window open until it is fulfilled, and shows why it is not.
export function ask(title, content, actions) {
  const heading = el("h2", { id: "ask-title" }, title);
  const why = el("p", { class: "error", role: "alert" });
  const box = el("dialog", { "aria-labelledby": "ask-title" });
  const close = () => box.close();
  const buttons = actions.map(([text, action, kind]) => button(text, async () => {
    why.textContent = "";
    buttons.forEach((one) => { one.disabled = true; });
    try {
      await action();
      close();
    } catch (error) {
      why.textContent = error.message;
    }
    buttons.forEach((one) => { one.disabled = false; });
  }, kind));
  const form = el("form", { method: "dialog", onsubmit: (event) => { event.preventDefault(); buttons.at(-1)?.click(); } },
    heading, content, why, el("div", { class: "actions" }, button("Cancel", close), buttons));
  box.append(form);
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
  return close;
}

export function field(text, value, kind = "text") {
  const id = `field-${text.toLowerCase().replaceAll(/[^a-z]/g, "-")}`;
  const input = el("input", { id, type: kind, value, autocomplete: "off", spellcheck: "false" });
  return { input, node: el("div", {}, el("label", { for: id }, text), input) };
}

// A word to everybody who looks or listens.
export function say(text, isError) {
  const line = el("p", { class: isError ? "error" : null }, text);
  document.getElementById("said").append(line);
  setTimeout(() => line.remove(), isError ? 12000 : 5000);
}
