// What grows where: the sites in order, and a swim-lane for each seed through its stages.

import { draw, h, s } from "./dom.js";
import { blueprintName, store } from "./store.js";

const ROW = 26;
const GUTTER = 168;
const LIMIT = 18;
export const NAMES = { GERMINATED: "planted", TRAINING: "training", BLENDING: "blending", SHADOWING: "shadowing", PROBATIONARY: "on probation", FOSSILIZED: "kept", EMBARGOED: "site rests", RESETTING: "site rests" };
let all = false;

export function drawSites(container) {
  const picture = store.picture;
  const seeds = [...(picture?.seeds.values() ?? [])];
  const told = picture?.start.sites ?? [];
  const named = told.length ? told : [...new Set(seeds.map((seed) => seed.site))].map((site) => ({ site }));
  draw(container, [picture?.id, named, seeds.map((seed) => [seed.id, seed.stage])], () => {
    if (!named.length) return h("p", { class: "soft" }, picture?.rows.length ? "Nothing has been planted so far, and the run did not list its sites." : "The sites are listed when the run starts.");
    const boxes = named.map((site) => [h("span", { class: "arrow", "aria-hidden": "true" }, "→"), siteBox(site, seeds.filter((seed) => seed.site === site.site))]);
    return h("div", { class: "sites", role: "list", "aria-label": "Sites of the network in order" }, h("div", { class: "site end" }, "input"), boxes, h("span", { class: "arrow", "aria-hidden": "true" }, "→"), h("div", { class: "site end" }, "output"));
  });
}

function siteBox(site, seeds) {
  const kept = seeds.filter((seed) => was(seed, "FOSSILIZED"));
  const now = seeds.filter((seed) => ["GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY"].includes(seed.stage));
  return h("div", { class: "site", role: "listitem" },
    h("div", { class: "where mono" }, site.site),
    h("div", { class: "shape" }, site.kind ? `${site.kind} ${site.shape.join(" × ")}` : ""),
    h("div", { class: "grown" },
      kept.map((seed) => h("span", { class: "pill good" }, "✓ ", blueprintName(seed.blueprint))),
      now.length ? h("span", { class: "pill info" }, `${now.length} being tried`) : null,
      kept.length + now.length === 0 ? h("span", { class: "none small" }, seeds.length ? "nothing kept" : "untouched") : null));
}

export function was(seed, stage) {
  return seed.stage === stage || seed.lane.some((entry) => entry.to_stage === stage);
}

/** The order in which seeds are listed: those in the network first, then the youngest. */
export function ordered(picture) {
  const rank = (seed) => (["BLENDING", "SHADOWING", "PROBATIONARY"].includes(seed.stage) ? 0 : ["GERMINATED", "TRAINING"].includes(seed.stage) ? 1 : was(seed, "FOSSILIZED") ? 2 : 3);
  const born = (seed) => seed.lane[0]?.boundary ?? 0;
  return [...picture.seeds.values()].sort((a, b) => rank(a) - rank(b) || born(b) - born(a));
}

export function drawLanes(container, onPick) {
  const picture = store.picture;
  if (!picture || picture.seeds.size === 0) {
    draw(container, ["none", picture?.id], () => (picture?.rows.length ? h("p", { class: "soft" }, "No seed has been planted.") : []));
    return;
  }
  const width = Math.max(300, container.clientWidth);
  const seeds = ordered(picture);
  const shown = all ? seeds : seeds.slice(0, LIMIT);
  draw(container, [picture.id, picture.seq, width, all], () => [
    h("div", { class: "lanes" }, chart(picture, shown, width, onPick)),
    key(),
    seeds.length > LIMIT ? h("button", { type: "button", class: "quiet", "data-key": "all-lanes", onclick: () => { all = !all; drawLanes(container, onPick); } }, all ? "Show fewer" : `Show all ${seeds.length} seeds`) : null,
  ]);
}

function chart(picture, seeds, width, onPick) {
  const narrow = width < 620;
  const left = narrow ? 0 : GUTTER;
  const row = narrow ? ROW + 16 : ROW;
  const last = picture.rows.at(-1)?.boundary ?? 1;
  const ending = Math.max(last, picture.start.boundaries ?? picture.run?.epochs ?? last, 1);
  const x = (boundary) => left + ((width - left - 8) * Math.min(boundary, ending)) / ending;
  const height = seeds.length * row + 24;
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Seeds through their stages over the boundaries of the run" });
  for (const tick of ticks(ending)) {
    svg.append(s("line", { class: "axis", x1: x(tick), x2: x(tick), y1: 0, y2: height - 20 }), s("text", { class: "soft", x: x(tick), y: height - 6, "text-anchor": tick === 0 ? "start" : tick === ending ? "end" : "middle" }, String(tick)));
  }
  if (!picture.end) svg.append(s("line", { class: "alpha", x1: x(last), x2: x(last), y1: 0, y2: height - 20, "stroke-dasharray": "2 3" }));
  seeds.forEach((seed, index) => svg.append(lane(picture, seed, { x, last, left, narrow, row, top: index * row, width }, onPick)));
  return svg;
}

function ticks(ending) {
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].find((size) => ending / size <= 10) ?? 10000;
  return Array.from({ length: Math.floor(ending / step) + 1 }, (_, index) => index * step);
}

function lane(picture, seed, at, onPick) {
  const bar = at.top + (at.narrow ? 17 : 4);
  const words = describe(seed);
  const group = s("g", { class: "row", onclick: () => onPick(seed.id) }, s("title", {}, words), s("rect", { class: "back", x: 0, y: at.top, width: at.width, height: at.row, rx: 6 }));
  const name = `${seed.id}  ${blueprintName(seed.blueprint)}`;
  group.append(s("text", { x: at.narrow ? 0 : 4, y: at.top + (at.narrow ? 12 : 17) }, at.narrow ? `${name} at ${seed.site}` : clip(name, 27)));
  const ramp = picture.rows.flatMap((row) => row.alphas.filter(([id]) => id === seed.id).map(([, alpha]) => [row.boundary, alpha]));
  const moving = ramp.filter(([, alpha], index) => alpha < 1 || (index && ramp[index - 1][1] < 1));
  const spells = spellsOf(seed, at.last);
  for (const spell of spells) {
    const from = at.x(spell.from);
    const wide = Math.max(2, at.x(spell.to) - from);
    const thin = spell.stage === "EMBARGOED" || spell.stage === "RESETTING";
    group.append(s("rect", { class: `stage ${spell.stage}`, x: from, y: thin ? bar + 7 : bar, width: wide, height: thin ? 4 : 18, rx: thin ? 2 : 4 }));
    const label = NAMES[spell.stage];
    const ramped = spell.stage === "BLENDING" && moving.length > 1; // its alpha is drawn there
    if (!thin && !ramped && label && wide > label.length * 6.4 + 8) group.append(s("text", { x: from + 6, y: bar + 13 }, label));
  }
  const fell = seed.lane.find((entry) => entry.to_stage === "CULLED");
  if (fell) group.append(s("text", { x: at.x(fell.boundary) + 4, y: bar + 13, "aria-hidden": "true" }, "✕"));
  if (moving.length > 1) group.append(s("path", { class: "alpha", d: `M${moving.map(([boundary, alpha]) => `${at.x(boundary).toFixed(1)} ${(bar + 17 - 16 * alpha).toFixed(1)}`).join("L")}` }));
  return group;
}

/** From the changes of stage: the stretches of boundaries that a seed spent in each. */
function spellsOf(seed, last) {
  return seed.lane
    .map((entry, index) => ({ stage: entry.to_stage, from: entry.boundary, to: seed.lane[index + 1]?.boundary ?? last }))
    .filter((spell) => spell.stage in NAMES && (spell.to > spell.from || spell.stage !== "EMBARGOED"));
}

function describe(seed) {
  const steps = seed.lane.map((entry) => `boundary ${entry.boundary}: ${(NAMES[entry.to_stage] ?? entry.to_stage).toLowerCase()}`);
  return `${seed.id}, ${blueprintName(seed.blueprint)} at ${seed.site}. ${steps.join("; ")}`;
}

function clip(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

function key() {
  const stages = ["GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY", "FOSSILIZED"];
  return h("div", { class: "key" }, stages.map((stage) => h("span", {}, s("svg", { width: 14, height: 12, "aria-hidden": "true" }, s("rect", { class: `stage ${stage}`, width: 14, height: 12, rx: 3 })), NAMES[stage])), h("span", {}, "✕ culled"), h("span", {}, "line: alpha from 0 to 1"));
}
