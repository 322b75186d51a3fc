// What the machinery does: services, breakers, restarts, queues. And what happened: alerts, events.

import { loadEvents } from "./connection.js";
import { confirm } from "./dialog.js";
import { clock, draw, h, number, pill, span } from "./dom.js";
import { serverNow, store } from "./store.js";

const LEVEL = { info: ["info", ""], warning: ["warning", "warn"], error: ["error", "bad"], critical: ["critical", "bad"] };

export function drawServices(container) {
  const status = store.status;
  if (!status) return;
  const services = Object.entries(status.services);
  draw(container, [services, status.queue_lag, Math.round(status.uptime_s / 60)], () => [
    services.length ? h("div", { class: "services" }, services.map(([name, facts]) => service(name, facts))) : h("p", { class: "soft" }, "The supervisor lists no services."),
    queues(status.queue_lag),
    h("p", { class: "soft small more" }, `Up for ${span(status.uptime_s)}. `, Object.entries(status.versions).map(([name, version]) => `${name} ${version}`).join(", "), ". Metrics for Prometheus: ", h("a", { href: "/metrics" }, "/metrics"), ", API: ", h("a", { href: "/api/openapi.json" }, "/api/openapi.json"), "."),
  ]);
}

function service(name, facts) {
  const kind = facts.state === "ready" ? "good" : ["starting", "waiting", "backing_off"].includes(facts.state) ? "warn" : "bad";
  const breakers = Object.entries(facts.breakers ?? {}).filter(([, state]) => state !== "closed");
  const detail = Object.entries(facts.detail ?? {}).filter(([, value]) => ["string", "number", "boolean"].includes(typeof value)).map(([key, value]) => `${key.replaceAll("_", " ")} ${said(key, value)}`);
  return h("div", { class: "service" },
    h("div", { class: "title" }, name, pill(facts.state.replaceAll("_", " "), kind)),
    facts.restarts ? h("p", {}, `restarted ${facts.restarts} ×`) : null,
    breakers.map(([breaker, state]) => h("p", {}, pill(`breaker ${breaker} ${state.replace("_", " ")}`, "warn"))),
    facts.error ? h("p", {}, facts.error) : null,
    detail.length ? h("p", {}, detail.join(" · ")) : null);
}

/** A fact of a service as people say it; a process id is a name, no quantity. */
function said(key, value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "number" && key !== "pid" ? number(value) : value;
}

function queues(lag) {
  if (!Object.keys(lag).length) return null;
  const entries = Object.entries(lag).filter(([, depth]) => depth > 0);
  if (!entries.length) return h("p", { class: "small more" }, "Nothing waits on the bus.");
  return h("p", { class: "small more" }, "Waiting on the bus: ", entries.map(([name, depth]) => `${name} ${number(depth)}`).join(" · "));
}

export function drawAlerts(container) {
  const alerts = store.status?.alerts ?? [];
  draw(container, alerts, () => alerts.map((alert) =>
    h("div", { class: "alert" },
      h("div", {}, h("strong", {}, alert.summary), h("div", { class: "soft small" }, `${alert.name} · ${alert.level} · for ${span(serverNow() - alert.started_at)}`, alert.acknowledged_by ? ` · seen by ${alert.acknowledged_by} at ${clock(alert.acknowledged_at)}` : "")),
      alert.state === "resolved" ? null : silence(alert),
      alert.state === "firing" ? h("button", { type: "button", class: "button", "data-key": alert.id, onclick: () => confirm({ title: "Acknowledge this alert?", text: "It stays until its cause is gone; that you have seen it is recorded.", deed: "Acknowledge", path: `/api/alerts/${alert.id}/ack`, body: {}, done: "Acknowledged." }) }, "Acknowledge") : pill("acknowledged", "info"))));
}

function silence(alert) {
  if (alert.silenced_until && alert.silenced_until > serverNow()) return h("span", { class: "soft small" }, `silent until ${clock(alert.silenced_until)}`);
  return h("button", { type: "button", class: "button", "data-key": `silence ${alert.id}`, onclick: () => confirm({ title: "Silence this alert for an hour?", text: "It stays here and goes on being judged; no message is sent about it until then.", deed: "Silence", path: `/api/alerts/${alert.id}/silence`, body: { seconds: 3600 }, done: "It is silent for an hour." }) }, "Silence");
}

const asked = new URLSearchParams(location.search);
let words = asked.get("q") ?? "";
let level = ["info", "warning", "error", "critical"].includes(asked.get("level")) ? asked.get("level") : "info";
let pending = 0;

export function drawEventTools(container) {
  draw(container, "tools", () => {
    const again = () => {
      clearTimeout(pending);
      const url = new URL(location.href); // so that what one looked for can be sent as a link
      url.searchParams.set("q", words);
      url.searchParams.set("level", level);
      history.replaceState(null, "", url);
      pending = setTimeout(() => void loadEvents(words, level), 200);
    };
    return h("div", { class: "tools" },
      h("input", { type: "search", placeholder: "Search events", value: words, "aria-label": "Search events", oninput: (event) => { words = event.target.value; again(); } }),
      h("select", { "aria-label": "At least this grave", onchange: (event) => { level = event.target.value; again(); } }, ["info", "warning", "error", "critical"].map((name) => h("option", { value: name, selected: name === level }, name === "critical" ? "critical only" : `${name} and above`))));
  });
}

export function drawEvents(container) {
  const least = Object.keys(LEVEL).indexOf(level);
  const shown = store.events.filter((event) => Object.keys(LEVEL).indexOf(event.level) >= least).slice(0, 40);
  draw(container, shown.map((event) => event.id ?? event.uid), () =>
    shown.length ? h("ol", { class: "items" }, shown.map((event) => h("li", {},
      h("div", { class: "when" }, clock(event.time)),
      h("div", {}, h("div", { class: "title" }, h("span", { class: "mono" }, event.name), event.level === "info" ? null : pill(...LEVEL[event.level]), h("span", { class: "soft small" }, event.source, event.run ? ` · ${event.run}` : "")), event.message ? h("div", { class: "small message" }, event.message) : null))))
      : h("p", { class: "soft" }, words ? "No event has these words." : "Nothing has happened that was worth an event."));
}
