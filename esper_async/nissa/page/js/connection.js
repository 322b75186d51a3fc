// The live connection: a WebSocket that comes back by itself, and plain requests.

import { addEvents, applyView, changed, emptyPicture, store } from "./store.js";
import { say } from "./toast.js";

const QUIET_MS = 8000;
let wait = 500;
let loading = null;

/** Open the stream; when it ends, try again with growing patience. */
export function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new WebSocket(`${scheme}://${location.host}/ws/stream`);
  socket.addEventListener("message", (event) => {
    wait = 500;
    store.heardAt = performance.now();
    store.connected = store.everConnected = true;
    take(JSON.parse(event.data));
    changed();
  });
  socket.addEventListener("close", () => {
    store.connected = false;
    changed();
    if (!store.everConnected) void askWhy();
    setTimeout(connect, wait + Math.random() * 250);
    wait = Math.min(wait * 2, 8000);
  });
}

/** A browser does not say why a stream was refused; the answer to a plain request does. */
async function askWhy() {
  store.refusal = await get("/api/status").then(() => null, (error) => error.detail ?? null);
  changed();
}

/** Whether what is shown may be out of date. */
export function isStale() {
  return !store.connected || performance.now() - store.heardAt > QUIET_MS;
}

function take(message) {
  if (message.type === "snapshot") {
    store.skew = message.time - Date.now() / 1000;
    store.status = message.status;
    store.runs = message.runs;
    choose();
    void loadPicture();
    void loadEvents();
  } else if (message.type === "status") {
    store.status = message.status;
    store.runs = message.runs;
    choose();
  } else if (message.type === "run") {
    if (message.id !== store.selected || store.picture?.id !== message.id) return;
    if (!add(message.view)) void loadPicture();
  } else if (message.type === "events") {
    if (asked("q", "")) void loadEvents(); // only the store knows which of them have those words
    else addEvents(message.items);
  }
}

/** Take what a view adds, and say what was refused since, however it comes; false where some is missing. */
function add(view) {
  const known = store.picture.seq;
  if (!applyView(store.picture, view)) return false;
  const refused = known ? view.notes.filter((note) => note.kind === "command_refused" && note.seq > known) : [];
  for (const note of refused) say(`Refused: ${note.reason}`, "bad");
  return true;
}

/** What the address asks for. */
const asked = (name, otherwise) => new URLSearchParams(location.search).get(name) ?? otherwise;

/** Keep a selected run that exists: the one in the address, else one that runs, else the newest. */
function choose() {
  if (store.runs.some((run) => run.id === store.selected)) return;
  const wanted = new URLSearchParams(location.search).get("run");
  const asked = store.runs.find((run) => run.id === wanted);
  const live = store.runs.find((run) => run.state === "running" || run.state === "paused");
  const chosen = asked ?? live ?? store.runs[0];
  if (chosen) select(chosen.id, false);
}

/** Show another run. */
export function select(runId, remember = true) {
  store.selected = runId;
  store.picture = emptyPicture(runId);
  if (remember) {
    const url = new URL(location.href);
    url.searchParams.set("run", runId);
    url.searchParams.delete("seed"); // which is another run's
    history.replaceState(null, "", url);
  }
  void loadPicture();
  changed();
}

/** Fetch what the picture of the selected run lacks. */
async function loadPicture() {
  const runId = store.selected;
  if (!runId || loading === runId) return;
  loading = runId;
  try {
    const after = store.picture?.id === runId ? store.picture.seq : 0;
    const view = await get(`/api/runs/${encodeURIComponent(runId)}/picture?after=${after}`);
    if (store.selected === runId) add(view);
  } catch (error) {
    console.warn("the run could not be loaded", error.message);
  } finally {
    loading = null;
    changed();
    if (store.selected !== runId) void loadPicture();
  }
}

/** Search the event store; without words, the latest. */
export async function loadEvents(words = asked("q", ""), level = asked("level", "info")) {
  const query = new URLSearchParams({ q: words, level, limit: "100" });
  store.events = await get(`/api/events?${query}`);
  changed();
}

export async function loadBlueprints() {
  const records = await get("/api/blueprints");
  store.blueprints = new Map(records.map((record) => [record.id, record]));
  changed();
}

/** Fetch JSON; rejects with the server's own words. */
export async function get(path) {
  return answer(await fetch(path, { headers: { Accept: "application/json" } }));
}

/** Ask for a change; rejects with the server's own words. */
export async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  return answer(response);
}

async function answer(response) {
  const document = await response.json().catch(() => null);
  if (!response.ok) throw Object.assign(new Error(document?.detail ?? `${response.status} ${response.statusText}`), { detail: document?.detail });
  return document;
}
