// Why: each decision with its reason, and what each command brought.

import { draw, h, number, percent, pill, signed } from "./dom.js";
import { figure } from "./seeds.js";
import { blueprintName, store } from "./store.js";

const OUTCOME = { SUCCESS: ["success", "good"], NEUTRAL: ["neutral", ""], REGRESSION: ["regression", "bad"], ABORTED: ["aborted", "warn"] };
let quiet = true;
let limit = 8;

export function drawDecisions(container) {
  const picture = store.picture;
  const refusals = (picture?.notes ?? []).filter((note) => note.kind === "command_refused");
  const decisions = [...(picture?.decisions ?? []).filter((item) => !quiet || item.command.operation !== null), ...refusals].sort((a, b) => b.seq - a.seq);
  const waits = (picture?.decisions.length ?? 0) - (picture?.decisions.filter((item) => item.command.operation !== null).length ?? 0);
  const explained = picture?.decisions.filter((item) => item.moved).length;
  draw(container, [picture?.id, picture?.decisions.length, explained, refusals.length, quiet, limit, store.blueprints.size], () => [
    h("div", { class: "tools" }, h("label", {}, h("input", { type: "checkbox", "data-key": "waits", checked: !quiet, onchange: (event) => { quiet = !event.target.checked; drawDecisions(container); } }), `show the ${waits} boundaries at which nothing was to be done`)),
    decisions.length ? h("ol", { class: "items" }, decisions.slice(0, limit).map((item) => (item.kind === "command_refused" ? refusal(item) : decision(item)))) : h("p", { class: "soft" }, "The policy has not acted."),
    decisions.length > limit ? h("button", { type: "button", class: "quiet more", "data-key": "more-decisions", onclick: () => { limit += 20; drawDecisions(container); } }, `Show older (${decisions.length - limit})`) : null,
  ]);
}

function decision(item) {
  const { command } = item;
  const title = command.operation === "GERMINATE" ? `Plant ${command.candidates.length} candidate${command.candidates.length === 1 ? "" : "s"}` : command.operation === "CULL" ? `Cull ${command.target}` : command.operation ? command.operation.toLowerCase().replaceAll("_", " ") : "Wait";
  const by = [item.policy, item.probability === null || item.probability === undefined ? null : `chosen with probability ${percent(item.probability, 0)}`, item.risk?.level ? `risk ${item.risk.level.toLowerCase()}` : null].filter(Boolean).join(" · ");
  const others = (item.alternatives ?? []).map((other) => [other.operation ? other.operation.toLowerCase() : "wait", other.blueprint, other.site, other.probability === undefined ? null : percent(other.probability, 0)].filter(Boolean).join(" "));
  return h("li", {},
    h("div", { class: "when" }, `boundary ${item.boundary}`),
    h("div", {},
      h("div", { class: "title" }, title),
      h("div", {}, "because ", item.reason),
      command.candidates?.length ? h("div", { class: "chips" }, command.candidates.map((one) => h("span", { class: "chip" }, blueprintName(one.blueprint), " ", h("span", { class: "soft mono" }, one.site)))) : null,
      h("div", { class: "soft small" }, by, others.length ? ` · instead of: ${others.join(", ")}` : ""),
      item.moved?.length ? h("div", { class: "soft small", title: "What the logarithm of the action's probability would lose, to first order, if the feature read 0" }, `moved most by: ${item.moved.map(effect).join(", ")}`) : null));
}

/** A feature as people say it: "budget_left/1" of the node "run" is "budget left of the run". */
function effect({ node, feature, effect: by }) {
  const name = feature.split("/")[0].replaceAll("_", " ");
  return `${name} of ${node === "run" ? "the run" : blueprintName(node)} ${signed(by, 2)}`;
}

function refusal(note) {
  return h("li", {},
    h("div", { class: "when" }, `boundary ${note.boundary}`),
    h("div", {},
      h("div", { class: "title" }, "A command was refused", pill("refused", "warn")),
      h("div", {}, "because ", note.reason)));
}

export function drawReports(container) {
  const picture = store.picture;
  const reports = (picture?.reports ?? []).toReversed();
  draw(container, [picture?.id, reports.length, store.blueprints.size], () =>
    reports.length ? h("ol", { class: "items" }, reports.slice(0, 30).map(report)) : h("p", { class: "soft" }, "A report is written when a command's window closes; none has."));
}

function report(item) {
  const change = Object.entries(item.observed_change ?? {}).filter(([, value]) => value !== null).map(([name, value]) => `${name.replaceAll("_", " ")} ${signed(value)}`);
  const losers = item.losers ?? [];
  return h("li", {},
    h("div", { class: "when" }, `boundary ${item.boundary}`),
    h("div", {},
      h("div", { class: "title" }, item.blueprint ? blueprintName(item.blueprint) : "No winner", item.site ? h("span", { class: "soft" }, "at ", h("span", { class: "mono" }, item.site)) : null, pill(...(OUTCOME[item.outcome] ?? [item.outcome.toLowerCase(), ""]))),
      h("div", {}, "benefit against its twin ", figure(item.benefit_vs_twin)),
      h("div", { class: "small" }, "clean contribution ", figure(item.clean_contribution), h("span", { class: "soft" }, " · "), "dependence ", figure(item.dependence)),
      change.length ? h("div", { class: "soft small" }, `Observed since, the host's own learning included: ${change.join(", ")}`) : null,
      losers.length ? h("div", { class: "chips" }, h("span", { class: "soft small" }, "over"), losers.map((loser) => h("span", { class: "chip" }, blueprintName(loser.blueprint), " ", h("span", { class: "soft" }, loser.clean_contribution ? `${signed(loser.clean_contribution.mean)}` : loser.gate ? `failed ${loser.gate.name ?? loser.gate}` : "not measured")))) : null));
}
