// Each seed with its three quantities, their intervals, and the gates it has met.

import { draw, h, number, pill, s, signed } from "./dom.js";
import { confirm } from "./dialog.js";
import { NAMES, ordered, was } from "./lanes.js";
import { blueprintName, store } from "./store.js";

const LIMIT = 9;
const QUANTITIES = [
  ["benefit_vs_twin", "benefit against its twin", "loss saved against the run that did not grow: what counts", ["harms", "helps"]],
  ["clean_contribution", "clean contribution", "before blending; ranks candidates, no measure of the gain", ["harms", "helps"]],
  ["dependence", "dependence", "what switching it off would cost; no evidence of benefit", ["", ""]],
];
const STAGE_KIND = { FOSSILIZED: "good", CULLED: "", BLENDING: "info", SHADOWING: "info", PROBATIONARY: "info", TRAINING: "info", GERMINATED: "info" };
let all = false;
let asked = new URLSearchParams(location.search).get("seed"); // by a link, until it is there

export function drawSeeds(container) {
  const picture = store.picture;
  const seeds = picture ? ordered(picture) : [];
  const shown = all ? seeds : seeds.slice(0, LIMIT);
  draw(container, [picture?.id, picture?.run?.state, all, store.blueprints.size, shown.map((seed) => [seed.id, seed.stage, seed.alpha, seed.age_epochs, seed.gates.length, seed.benefit_vs_twin, seed.clean_contribution, seed.dependence])], () => [
    shown.map((seed) => card(seed, picture)),
    seeds.length > LIMIT ? h("button", { type: "button", class: "quiet", "data-key": "all-seeds", onclick: () => { all = !all; drawSeeds(container); } }, all ? "Show fewer" : `Show all ${seeds.length} seeds`) : null,
  ]);
  if (asked && picture?.seeds.has(asked)) {
    const wanted = asked;
    asked = null;
    showSeed(wanted);
  }
}

/** Open a seed's card and bring it into view. */
export function showSeed(id) {
  all = true;
  const container = document.getElementById("seeds");
  drawSeeds(container);
  const details = container.querySelector(`[data-key="seed ${CSS.escape(id)}"]`);
  if (!details) return;
  details.open = true;
  remember(id);
  details.scrollIntoView({ block: "nearest" });
  details.querySelector("summary").focus({ preventScroll: true });
}

/** Have the address lead to a seed of this run. */
function remember(id) {
  if (store.report) return;
  const url = new URL(location.href);
  url.searchParams.set("run", store.selected);
  url.searchParams.set("seed", id);
  history.replaceState(null, "", url);
}

export function stageWord(seed) {
  if (was(seed, "FOSSILIZED")) return "kept";
  if (was(seed, "CULLED")) return "culled";
  return NAMES[seed.stage] ?? seed.stage.toLowerCase();
}

function card(seed, picture) {
  const word = stageWord(seed);
  const kind = word === "kept" ? "good" : word === "culled" ? "" : (STAGE_KIND[seed.stage] ?? "");
  const headline = seed.benefit_vs_twin ? ["benefit ", figure(seed.benefit_vs_twin)] : seed.clean_contribution ? ["clean contribution ", figure(seed.clean_contribution)] : [h("span", { class: "none" }, word === "culled" ? "nothing was measured" : "nothing measured yet")];
  return h("details", { class: "seed", "data-key": `seed ${seed.id}` },
    h("summary", { onclick: () => remember(seed.id) },
      h("span", { class: "id mono" }, seed.id),
      h("span", { class: "what" }, h("strong", {}, blueprintName(seed.blueprint)), " ", h("span", { class: "soft" }, "at ", h("span", { class: "mono" }, seed.site))),
      pill(word, kind),
      h("span", { class: "headline small" }, headline)),
    h("div", { class: "inside" },
      h("div", { class: "quantities" }, QUANTITIES.map(([name, label, note, sides]) => quantity(label, note, sides, seed[name])),
        h("div", { class: "quantity" }, h("div", { class: "label" }, "alpha"), h("div", { class: "figure" }, seed.alpha === null ? h("span", { class: "none" }, "not in the network") : number(seed.alpha, 3)), h("div", { class: "soft small" }, [`${number(seed.age_epochs)} epochs old`, seed.parameters ? `${number(seed.parameters)} parameters` : null, seed.blueprint].filter(Boolean).join(" · ")))),
      h("h3", {}, "Gates"),
      seed.gates.length ? h("ul", { class: "gates" }, seed.gates.map(gate)) : h("p", { class: "none small" }, "It has met none yet."),
      cullable(seed, picture) ? cull(seed, picture) : null));
}

/** +0.058 [+0.054, +0.062] nats */
export function figure(value) {
  if (!value) return h("span", { class: "none" }, "not measured");
  const interval = value.low === null || value.high === null ? "no interval" : `${signed(value.low)} to ${signed(value.high)}`;
  return [h("b", {}, signed(value.mean)), h("span", { class: "soft" }, ` (${interval}) ${value.unit ?? ""}`), value.estimated ? [" ", pill("estimated", "warn")] : null];
}

function quantity(label, note, sides, value) {
  return h("div", { class: "quantity" },
    h("div", { class: "label" }, label),
    h("div", { class: "figure" }, figure(value)),
    value ? whisker(value, sides) : null,
    h("div", { class: "soft small" }, value ? `over ${number(value.n)} ${value.paired_by === "batch" ? "batches" : "samples"}; ${note}` : note));
}

/** The interval against zero: left of the dashed line harms, right of it helps. */
function whisker(value, [left, right]) {
  if (value.low === null || value.high === null) return null;
  const reach = Math.max(Math.abs(value.low), Math.abs(value.high), 1e-9) * 1.15;
  const x = (number) => 120 + (112 * number) / reach;
  return s("svg", { class: "whisker", viewBox: "0 0 240 26", "aria-hidden": "true" },
    s("line", { class: "track", x1: 4, x2: 236, y1: 9, y2: 9 }),
    s("line", { class: "zero", x1: 120, x2: 120, y1: 2, y2: 16 }),
    s("text", { x: 120, y: 25, "text-anchor": "middle" }, "0"),
    s("text", { x: 4, y: 25 }, left),
    s("text", { x: 236, y: 25, "text-anchor": "end" }, right),
    s("line", { class: "span", x1: x(value.low), x2: x(value.high), y1: 9, y2: 9 }),
    s("circle", { class: "mean", cx: x(value.mean), cy: 9, r: 4.5 }));
}

export function gate(result) {
  const numbers = Object.entries(result.numbers ?? {}).map(([name, value]) => `${name.replaceAll("_", " ")} ${value === null ? "not measured" : number(value)}`);
  return h("li", {}, pill(result.name, result.passed ? "good" : "bad"), h("div", {}, h("div", {}, result.passed ? "passed: " : "failed: ", result.reason), numbers.length ? h("div", { class: "numbers" }, numbers.join(" · ")) : null));
}

function cullable(seed, picture) {
  return !store.report && ["running", "paused"].includes(store.runs.find((run) => run.id === picture.id)?.state) && ["GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY"].includes(seed.stage);
}

function cull(seed, picture) {
  const blended = ["BLENDING", "SHADOWING", "PROBATIONARY"].includes(seed.stage);
  return h("p", { class: "more" }, h("button", {
    type: "button", class: "button danger", "data-key": `cull ${seed.id}`,
    onclick: () => confirm({
      title: `Cull ${seed.id}?`,
      text: blended ? "It is in the network: the run adopts its twin, which never had it." : "It is not in the network yet: the run goes on as if it had never been planted.",
      deed: "Cull the seed", danger: true, path: `/api/runs/${encodeURIComponent(picture.id)}/seeds/${encodeURIComponent(seed.id)}/cull`, done: `${seed.id} is culled at the next boundary.`,
    }),
  }, "Cull this seed"));
}
