// Children, forge and policies: what runs beside the supervisor, and which policy decides.

import { get } from "./connection.js";
import { confirm } from "./dialog.js";
import { clock, draw, h, number, pill } from "./dom.js";
import { changed, store } from "./store.js";

/** Fetch the registry of learned policies. */
export async function loadPolicies() {
  [store.policies, store.policyHistory] = await Promise.all([
    get("/api/policies").catch(() => []),
    get("/api/policies/history?limit=12").catch(() => []),
  ]);
  changed();
}

export function drawForge(container) {
  const status = store.status;
  if (!status) return;
  const children = childrenOf(status);
  draw(container, [children, store.policies, store.policyHistory], () => [
    h("h3", {}, "Processes beside the supervisor"),
    children.length
      ? h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Processes" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "process"), h("th", {}, "of"), h("th", {}, "state"), h("th", {}, ""))), h("tbody", {}, children.map((child) => h("tr", {}, h("td", { class: "mono" }, child.name), h("td", {}, child.service), h("td", {}, child.state), h("td", { class: "soft" }, child.more))))))
      : h("p", { class: "soft small" }, "No service tells of any."),
    h("h3", { class: "more" }, "Policies that were learned"),
    policies(),
    history(),
  ]);
}

/** What services tell of their processes: {children: {...}}, {child: ...}, or a process id. */
function childrenOf(status) {
  const found = [];
  for (const [service, facts] of Object.entries(status.services)) {
    for (const [key, value] of Object.entries(facts.detail ?? {})) {
      if (key === "pid" && value) found.push({ service, name: service, state: facts.state, more: `process ${value}` });
      if (["children", "child", "runs", "workers"].includes(key) && value && typeof value === "object") {
        for (const [name, told] of Object.entries(value)) {
          const state = typeof told === "object" && told ? (told.state ?? "") : String(told);
          const more = typeof told === "object" && told ? Object.entries(told).filter(([item, text]) => item !== "state" && ["string", "number"].includes(typeof text)).map(([item, text]) => `${item.replaceAll("_", " ")} ${typeof text === "number" ? number(text) : text}`).join(" · ") : "";
          found.push({ service, name, state, more });
        }
      }
    }
  }
  for (const run of store.runs) {
    if (run.state === "running") found.push({ service: "tolaria", name: run.id, state: run.progress?.phase ?? "training", more: run.progress?.step ? `step ${number(run.progress.step)}` : "" });
  }
  return found;
}

function policies() {
  if (!store.policies.length) return h("p", { class: "soft small" }, "None has been published; runs decide by the policy that their run file names.");
  return h("ol", { class: "items" }, store.policies.map((policy) => h("li", {},
    h("div", { class: "when" }, policy.created_at ? clock(policy.created_at) : "built in"),
    h("div", {},
      h("div", { class: "title" }, h("span", { class: "mono" }, policy.id), policy.state ? pill(policy.state, policy.state === "active" ? "good" : "") : null),
      policy.controller ? h("div", { class: "soft small" }, stageOf(policy.controller)) : null,
      policy.state === "active" ? null : h("button", { type: "button", class: "button", "data-key": `activate ${policy.id}`, onclick: () => confirm({ title: `Activate ${policy.id}?`, text: "The controller asks it beside the one before, unless it has decided already; then it decides in runs that begin afterwards. Any earlier one can be activated again.", deed: "Activate", path: `/api/policies/${encodeURIComponent(policy.id)}/activate`, done: "It is active.", after: loadPolicies }) }, "Activate")))));
}

/** Say how far the controller has come with a policy's update. */
function stageOf(told) {
  if (told.stage === "staged") return `staged: asked about ${told.states} of ${told.states_wanted} live states`;
  if (told.stage === "rejected") return `rejected by the controller: ${told.reason}`;
  return told.watched ? "decides, and is watched" : told.stage === "active" ? "decides" : "has decided before";
}

function history() {
  if (!store.policyHistory.length) return null;
  return h("details", { "data-key": "policy history" }, h("summary", {}, "What happened to them"),
    h("ol", { class: "items" }, store.policyHistory.map((event) => h("li", {},
      h("div", { class: "when" }, clock(event.at)),
      h("div", {}, h("div", { class: "title" }, h("span", { class: "mono" }, event.id), pill(event.what, event.what === "rejected" || event.what === "refused" ? "bad" : "")), h("div", { class: "soft small" }, event.reason))))));
}
