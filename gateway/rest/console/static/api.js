// Everything that is asked of the gateway. The key goes in a header, or in a WebSocket's subprotocol; never in an address.

const STORED = "eagleeye.key"; // for this tab only, until it is closed

/** What the gateway said was wrong, or what the browser did. */
export class Problem extends Error {
  constructor(status, code, detail, retryAfter = 0) {
    super(detail);
    this.status = status;
    this.code = code;
    this.retryAfterSeconds = retryAfter;
  }
}

let askForKey = async () => false;

/** Say how a key is asked for: a function of the reason that resolves to whether there is a new one. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

export const storedKey = () => sessionStorage.getItem(STORED) ?? "";

export function storeKey(key) {
  if (key) sessionStorage.setItem(STORED, key);
  else sessionStorage.removeItem(STORED);
}

/** An address of the gateway; parameters that are undefined are left out. */
export function address(path, parameters = {}) {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(parameters)) if (value !== undefined) url.searchParams.set(name, value);
  url.hash = "";
  return url;
}

async function problemOf(response) {
  const body = await response.json().catch(() => ({}));
  const retryAfter = Number(response.headers.get("Retry-After")) || 0;
  const detail = body.detail ?? `the gateway answered ${response.status} ${response.statusText}`;
  return new Problem(response.status, body.code ?? "unknown", detail, retryAfter);
}

async function attempt(url, init, key) {
  const headers = { ...init.headers, ...(key ? { "X-API-Key": key } : {}) };
  let response;
  try {
    response = await fetch(url, { ...init, headers, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "unreachable", "The gateway does not answer. Is it running, and is this machine online?");
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

/** A response of the gateway. Where a key is needed, it is asked for, and the request made once more. */
export async function call(path, { parameters, ...init } = {}) {
  for (;;) {
    const key = storedKey();
    try {
      return await attempt(address(path, parameters), init, key);
    } catch (problem) {
      if (problem.status !== 401) throw problem;
      // another request may have got the new key meanwhile
      if (storedKey() === key && !(await askForKey(key ? problem.message : ""))) throw problem;
    }
  }
}

export const getJson = async (path, init) => (await call(path, init)).json();

/** Whether the gateway knows a key. */
export async function check(key) {
  await attempt(address("v1/models"), {}, key);
}

/** Server-sent events, each as the value of its JSON; fetched, because an EventSource can't carry a header. */
export async function* events(path, signal) {
  const response = await call(path, { signal, headers: { Accept: "text/event-stream" } });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}

function base64url(text) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** A WebSocket for frames. */
export function openStream(parameters) {
  const url = address("v1/stream", parameters);
  url.protocol = url.protocol.replace("http", "ws");
  const key = storedKey();
  return new WebSocket(url, ["eagleeye.frames.v1", ...(key ? [`eagleeye.key.${base64url(key)}`] : [])]);
}
