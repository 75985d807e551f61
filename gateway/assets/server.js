// Requests to the gateway that this page is from: WebHDFS and /api/v1.

const SECOND_STEP = "namenoderpcaddress=console";

function kept(name) {
  try { return localStorage.getItem(name) ?? ""; } catch { return ""; }
}

function keep(name, value) {
  try { localStorage.setItem(name, value); } catch { /* Only for this visit, then. */ }
}

let user = kept("cairn.user");
// A token is for this visit: whoever uses the browser next has to bring one.
let token = (() => { try { return sessionStorage.getItem("cairn.token") ?? ""; } catch { return ""; } })();

export const who = {
  user: () => user,
  token: () => token,
  signIn(name, secret) {
    user = name;
    token = secret;
    keep("cairn.user", name);
    try { sessionStorage.setItem("cairn.token", secret); } catch { /* As above. */ }
  },
};

export const theme = {
  get: () => kept("cairn.theme") || "auto",
  set: (value) => keep("cairn.theme", value),
};

function url(path, query) {
  const mine = token ? "" : user && `user.name=${encodeURIComponent(user)}`;
  const all = [query, mine].filter(Boolean).join("&");
  return all ? `${path}?${all}` : path;
}

function headers(more) {
  return token ? { ...more, Authorization: `Bearer ${token}` } : { ...more };
}

export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function refused(response) {
  const text = await response.text();
  try {
    const body = JSON.parse(text);
    const remote = body.RemoteException;
    if (remote) return new Refused(response.status, remote.exception, remote.message);
    if (body.error) return new Refused(response.status, body.code, body.error);
  } catch { /* It is no JSON. */ }
  return new Refused(response.status, "", `HTTP ${response.status}: ${text.slice(0, 300)}`);
}

async function send(path, query, options = {}) {
  let response;
  try {
    response = await fetch(url(path, query), { ...options, headers: headers(options.headers) });
  } catch {
    throw new Refused(0, "", "this gateway does not answer");
  }
  if (!response.ok) throw await refused(response);
  return response;
}

async function json(response) {
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

export async function api(path, query) {
  return json(await send(`/api/v1${path}`, query));
}

// Paths here are percent-encoded, as listings have them: they may be bytes that are no text.
const hdfs = (path) => `/webhdfs/v1${path}`;

export async function webhdfs(method, path, query) {
  const answer = await json(await send(hdfs(path), query, { method }));
  if (answer?.boolean === false) throw new Refused(409, "", "The cluster said no: is it still there, and is the new name free?");
  return answer;
}

export async function bytes(path, length) {
  const response = await send(hdfs(path), `op=OPEN&length=${length}&${SECOND_STEP}`);
  return new Uint8Array(await response.arrayBuffer());
}

export function downloadUrl(path) {
  return url(hdfs(path), `op=OPEN&${SECOND_STEP}`);
}

export async function downloadBlob(path) {
  return (await send(hdfs(path), `op=OPEN&${SECOND_STEP}`)).blob();
}

// Progress of uploads is something that fetch does not tell.
export function upload(path, file, overwrite, onprogress) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("PUT", url(hdfs(path), `op=CREATE&overwrite=${overwrite}&${SECOND_STEP}`));
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => onprogress(event.loaded, event.total);
    request.onerror = () => failed(new Refused(0, "", "the upload broke off"));
    request.onload = async () => {
      if (request.status === 201) done();
      else failed(await refused(new Response(request.responseText, { status: request.status })));
    };
    request.send(file);
  });
}

// Server-sent events, read by hand: the browser's own reader sends no headers. Goes on until `signal`.
export async function events(path, signal, onevent, onstate) {
  while (!signal.aborted) {
    try {
      const response = await send(`/api/v1${path}`, "", { signal, cache: "no-store" });
      onstate("live");
      await read(response.body, onevent);
    } catch (error) {
      if (signal.aborted) return;
      onstate(error.status === 401 ? "refused" : "lost", error);
    }
    await new Promise((done) => setTimeout(done, 1500));
  }
}

async function read(body, onevent) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    let end;
    while ((end = rest.indexOf("\n\n")) >= 0) {
      const event = { name: "message", data: "" };
      for (const line of rest.slice(0, end).split("\n")) {
        if (line.startsWith("event:")) event.name = line.slice(6).trim();
        if (line.startsWith("data:")) event.data += line.slice(5).trim();
      }
      rest = rest.slice(end + 2);
      if (event.data) onevent(event.name, JSON.parse(event.data));
    }
  }
}
