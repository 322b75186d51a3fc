// Is everything all right? One verdict, with its reasons. Pure: state in, words out.

import { standing } from "./budgets.js";
import { clock, draw, h, percent, span } from "./dom.js";
import { isStale } from "./connection.js";
import { serverNow, store } from "./store.js";

const RANK = { bad: 2, warn: 1, good: 0 };
const TITLES = { good: "All is well", warn: "Worth a look", bad: "Something is wrong" };
const MARKS = { good: "✓", warn: "!", bad: "✕" };

/** How long a running run may say nothing: five of its usual boundaries, at least half a minute. */
export function patience(rows) {
  if (rows.length < 3) return 180;
  const recent = rows.slice(-20);
  // the median: a night during which the supervisor was off is no usual boundary
  const gaps = recent.slice(1).map((row, index) => row.time - recent[index].time).sort((a, b) => a - b);
  return Math.max(30, 5 * gaps[Math.floor(gaps.length / 2)]);
}

/** For how many seconds a run's training has said nothing since it and this supervisor began. */
function silence(run, picture) {
  if (run?.state !== "running" || !picture.updatedAt) return 0;
  // a process that starts, proves or compares says so by its heartbeat, which is watched elsewhere
  if (run.progress?.step === null || run.progress?.phase) return 0;
  const began = store.status.time - store.status.uptime_s;
  return serverNow() - Math.max(picture.updatedAt, began);
}

/** Every reason to worry, the gravest first: [{kind, text}]. */
export function reasons() {
  const found = [];
  const { status, runs, picture } = store;
  if (status.status === "stopping") found.push({ kind: "warn", text: "The system is shutting down." });
  for (const [name, facts] of Object.entries(status.services)) {
    if (facts.state === "ready") continue;
    const starting = facts.state === "starting" || facts.state === "waiting";
    found.push({ kind: starting ? "warn" : "bad", text: `${name} is ${facts.state.replace("_", " ")}${facts.error ? `: ${facts.error}` : ""}.` });
  }
  for (const alert of status.alerts) {
    const quiet = alert.state === "acknowledged";
    found.push({ kind: alert.level === "warning" || quiet ? "warn" : "bad", text: `${alert.summary}${quiet ? ` Seen by ${alert.acknowledged_by}.` : ""}` });
  }
  for (const mode of status.conservative_modes) found.push({ kind: "warn", text: `${mode} is in conservative mode.` });
  for (const budget of store.budgets) {
    if (standing(budget)[0] === "overdrawn") found.push({ kind: "warn", text: `The error budget of thirty days of ${budget.service}'s ${budget.kind} is overdrawn: ${percent(budget.good_ratio, 2)} was good, ${percent(budget.target, 1)} is asked.` });
  }
  for (const run of runs) {
    const fresh = run.created_at && serverNow() - run.created_at < 86400;
    if (run.state === "failed" && (fresh || run.id === store.selected)) found.push({ kind: "bad", text: `Run ${run.name} failed: ${run.error ?? "no reason was given"}` });
  }
  if (picture) {
    for (const fault of picture.faults) found.push({ kind: "warn", text: `The journal of this run: ${fault}` });
    const silent = silence(runs.find((run) => run.id === picture.id), picture);
    if (silent > patience(picture.rows)) found.push({ kind: "warn", text: `This run has said nothing for ${span(silent)}.` });
  }
  return found.sort((a, b) => RANK[b.kind] - RANK[a.kind]);
}

function summary() {
  const services = Object.keys(store.status.services).length;
  const running = store.runs.filter((run) => run.state === "running").length;
  const parts = [running === 0 ? "No run is training" : running === 1 ? "One run is training" : `${running} runs are training`];
  const paused = store.runs.filter((run) => run.state === "paused").length;
  if (paused) parts.push(`${paused} ${paused === 1 ? "is" : "are"} paused`);
  if (services) parts.push(`all ${services} services are ready`);
  parts.push("no alert is active");
  return `${parts.join(", ")}.`;
}

export function drawVerdict(container) {
  if (!store.everConnected && store.refusal) {
    draw(container, ["refused", store.refusal], () => panel("bad", "This page is not let in", [h("li", {}, store.refusal)]));
    return;
  }
  if (!store.everConnected) {
    draw(container, "connecting", () => panel("warn", "Connecting", [h("li", {}, "Waiting for the first news from Esper.")]));
    return;
  }
  if (isStale()) {
    const since = clock(serverNow() - (performance.now() - store.heardAt) / 1000);
    draw(container, ["stale", since], () => panel("unknown", "Unknown: the connection is lost", [h("li", {}, `What you see is from ${since}. The page keeps trying; is the supervisor still running?`)]));
    return;
  }
  const found = reasons();
  const kind = found[0]?.kind ?? "good";
  const lines = found.length ? found.slice(0, 6).map((reason) => h("li", {}, h("span", { "aria-hidden": "true" }, MARKS[reason.kind]), reason.text)) : [h("li", { class: "soft" }, summary())];
  if (found.length > 6) lines.push(h("li", { class: "soft" }, `and ${found.length - 6} more below`));
  draw(container, [kind, found, found.length ? "" : summary()], () => panel(kind, TITLES[kind], lines));
}

function panel(kind, title, lines) {
  return h("div", { class: `verdict ${kind}` }, h("div", { class: "mark", "aria-hidden": "true" }, MARKS[kind] ?? "?"), h("div", {}, h("h1", {}, title), h("ul", {}, lines)));
}
