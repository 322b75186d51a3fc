// What it brought: how the benefits of the kept seeds add up, each against its own twin.

import { draw, h, s, signed } from "./dom.js";
import { was } from "./lanes.js";
import { blueprintName, store } from "./store.js";

const ROW = 30;
const GUTTER = 190;

export function drawWaterfall(container) {
  const picture = store.picture;
  const seeds = [...(picture?.seeds.values() ?? [])].filter((seed) => was(seed, "FOSSILIZED"));
  const width = Math.max(300, container.clientWidth);
  draw(container, [picture?.id, width, store.blueprints.size, seeds.map((seed) => [seed.id, seed.benefit_vs_twin])], () => {
    if (!picture?.rows.length) return [];
    if (!seeds.length) return h("p", { class: "soft small" }, "No seed has been kept, so growing has brought nothing to the network so far.");
    const steps = stepsOf(seeds);
    const measured = steps.filter((step) => step.value !== null);
    return [
      h("h3", {}, "Loss saved by what was kept"),
      h("div", { class: "lanes" }, chart(steps, width)),
      h("p", { class: "soft small" }, `${measured.length} of ${steps.length} measured. Each bar is one seed against its own twin, with its 95 % interval over samples${steps.length > 1 ? "; their sum was not measured as a whole" : ""}.`),
    ];
  });
}

function stepsOf(seeds) {
  let sum = 0;
  const born = (seed) => seed.lane.find((entry) => entry.to_stage === "FOSSILIZED")?.seq ?? 0;
  return seeds.toSorted((a, b) => born(a) - born(b)).map((seed) => {
    const value = seed.benefit_vs_twin;
    const step = { name: `${seed.id}  ${blueprintName(seed.blueprint)}`, value: value?.mean ?? null, low: value?.low ?? null, high: value?.high ?? null, estimated: value?.estimated ?? false, from: sum };
    sum += step.value ?? 0;
    return step;
  });
}

function chart(steps, width) {
  const narrow = width < 620;
  const left = narrow ? 0 : GUTTER;
  const row = narrow ? ROW + 14 : ROW;
  const total = steps.reduce((sum, step) => sum + (step.value ?? 0), 0);
  const edges = steps.flatMap((step) => [step.from, step.from + (step.value ?? 0), step.from + (step.low ?? 0), step.from + (step.high ?? 0)]).concat(0, total);
  const [low, high] = [Math.min(...edges), Math.max(...edges)];
  const room = width - left - 74;
  const x = (value) => left + 4 + (room * (value - low)) / (high - low || 1);
  const rows = steps.length > 1 ? [...steps, { name: "together", value: total, from: 0, sum: true }] : steps;
  const svg = s("svg", { viewBox: `0 0 ${width} ${rows.length * row + 4}`, role: "img", "aria-label": `Loss saved by each kept seed: ${rows.map((step) => `${step.name} ${step.value === null ? "not measured" : signed(step.value)}`).join("; ")}` });
  svg.append(s("line", { class: "axis", x1: x(0), x2: x(0), y1: 0, y2: rows.length * row }));
  rows.forEach((step, index) => svg.append(bar(step, { x, row, top: index * row, narrow })));
  return svg;
}

function bar(step, { x, row, top, narrow }) {
  const group = s("g", {}, s("text", { x: narrow ? 0 : 4, y: top + (narrow ? 12 : 18) }, step.name));
  const y = top + (narrow ? 16 : 5);
  if (step.value === null) {
    group.append(s("text", { class: "soft", x: x(step.from) + 4, y: y + 13 }, "not measured"));
    return group;
  }
  const [from, to] = [x(Math.min(step.from, step.from + step.value)), x(Math.max(step.from, step.from + step.value))];
  group.append(s("rect", { class: step.sum ? "fall sum" : step.value < 0 ? "fall harm" : "fall", x: from, y, width: Math.max(1.5, to - from), height: 18, rx: 3 }));
  let end = to;
  if (step.low !== undefined && step.low !== null && step.high !== null) {
    const [a, b] = [x(step.from + step.low), x(step.from + step.high)];
    group.append(s("line", { class: "alpha", x1: a, x2: b, y1: y + 9, y2: y + 9 }), s("line", { class: "alpha", x1: a, x2: a, y1: y + 5, y2: y + 13 }), s("line", { class: "alpha", x1: b, x2: b, y1: y + 5, y2: y + 13 }));
    end = Math.max(to, b);
  }
  group.append(s("text", { x: end + 6, y: y + 13 }, `${signed(step.value)}${step.estimated ? " est." : ""}`));
  return group;
}
