// Curves of the selected run, drawn with uPlot: losses with the twin, the primary metric, benefit.

import uPlot from "/page/vendor/uPlot.esm.js";
import { draw, h, number, s, signed } from "./dom.js";
import { primaryOf } from "./runs.js";
import { store } from "./store.js";

const HEIGHT = 200;
const charts = new Map();

/** What to draw: charts with their series, each a key of a boundary's metrics. */
function plan(picture) {
  const primary = primaryOf(picture);
  const losses = {
    key: "loss", title: "Loss", write: number, steep: isSteep(picture),
    series: [
      { label: "training", metric: "training_loss", colour: "--chart-2", width: 1.2 },
      { label: "validation", metric: "validation_loss", colour: "--chart-1", width: 2 },
      { label: "averaged weights", metric: "averaged_loss", colour: "--chart-3", width: 1.6, dash: [2, 3] },
      { label: "twin that did not grow", metric: "twin_loss", colour: "--chart-4", width: 1.8, dash: [6, 4] },
    ],
  };
  const found = [losses];
  if (primary.name !== "validation_loss") {
    const series = [{ label: primary.label, metric: primary.name, colour: "--chart-1", width: 2 }];
    // first, so that the curve in question is drawn over it
    if (primary.name === "validation_accuracy") series.unshift({ label: "training accuracy, last step", metric: "training_accuracy", colour: "--chart-2", width: 1.2, expected: true });
    found.push({ key: "primary", title: primary.name === "validation_accuracy" ? "accuracy" : primary.label, write: primary.write, series });
  }
  if (picture.rows.some((row) => saved(row) !== null)) {
    found.push({
      key: "twin", title: "Loss saved against the twin that did not grow", write: signed, zero: true, band: [2, 3],
      series: [
        { label: "at this boundary", value: saved, colour: "--chart-3", width: 2, dots: true },
        { bound: true, value: (row) => row.benefit?.low ?? null, colour: "--chart-3", width: 1 },
        { bound: true, value: (row) => row.benefit?.high ?? null, colour: "--chart-3", width: 1 },
      ],
    });
  }
  found.push({ key: "rate", title: "Samples a second", write: number, series: [{ label: "samples a second", value: (row) => row.rate, colour: "--chart-2", width: 1.4 }] });
  return found;
}

/** Whether the loss has fallen so far that only a logarithmic axis shows what happens now. */
function isSteep(picture) {
  const values = picture.rows.flatMap((row) => [row.metrics.training_loss, row.metrics.validation_loss]).filter((value) => value !== null && value !== undefined);
  const least = Math.min(...values);
  return least > 0 && Math.max(...values) / least > 12;
}

/** How much lower this run's loss is than its twin's, both on averaged weights; above 0 it helps. */
function saved(row) {
  const { twin_loss: twin, averaged_loss: own } = row.metrics;
  return twin === undefined || own === undefined || twin === null || own === null ? null : twin - own;
}

/** What happened to the network, to mark on the time axis. */
function marks(picture) {
  const signs = { GERMINATED: "planted", BLENDING: "blend begins", FOSSILIZED: "kept" };
  const found = new Map();
  for (const seed of picture.seeds.values()) {
    for (const entry of seed.lane) {
      const fell = entry.to_stage === "CULLED" && ["BLENDING", "SHADOWING", "PROBATIONARY"].includes(entry.from_stage);
      const text = fell ? "culled, twin adopted" : signs[entry.to_stage];
      if (text) found.set(`${entry.boundary} ${text}`, { x: entry.boundary, text });
    }
  }
  return [...found.values()];
}

export function drawCharts(container) {
  const picture = store.picture;
  if (!picture || picture.rows.length === 0) {
    drop(container);
    return;
  }
  const wanted = plan(picture);
  const names = `${picture.id} ${wanted.map((chart) => chart.key + (chart.steep ? " log" : ""))} ${document.documentElement.dataset.theme}`;
  if (container.names !== names) build(container, wanted, names);
  const columns = read(picture, wanted);
  const signs = marks(picture);
  for (const chart of wanted) {
    const state = charts.get(chart.key);
    if (state.seq === picture.seq) continue;
    state.seq = picture.seq;
    state.marks = signs;
    state.plot.setData(columns.get(chart.key));
    state.legend(null);
  }
}

function drop(container) {
  for (const { plot } of charts.values()) plot.destroy();
  charts.clear();
  container.names = null;
  container.replaceChildren();
}

function read(picture, wanted) {
  const x = picture.rows.map((row) => row.boundary);
  return new Map(wanted.map((chart) => [chart.key, [x, ...chart.series.map((one) => picture.rows.map((row) => (one.value ? one.value(row) : row.metrics[one.metric]) ?? null))]]));
}

function build(container, wanted, names) {
  drop(container);
  container.names = names;
  const holder = h("div", { class: "charts" });
  container.append(holder);
  for (const chart of wanted) {
    const legend = h("div", { class: "legend" });
    const plot = h("div", { class: "plot", role: "img", "aria-label": `${chart.title} over boundaries` });
    holder.append(h("div", { class: "chart" }, h("h3", {}, chart.title.replace(/^./, (c) => c.toUpperCase()), chart.steep ? h("span", { class: "soft small" }, " on a logarithmic axis") : null), legend, plot));
    const state = { seq: -1, marks: [], legend: (index) => drawLegend(legend, chart, state.plot, index) };
    state.plot = new uPlot(options(chart, state, plot.clientWidth), [[], ...chart.series.map(() => [])], plot);
    charts.set(chart.key, state);
    new ResizeObserver(() => state.plot.setSize({ width: plot.clientWidth, height: HEIGHT })).observe(plot);
  }
}

function options(chart, state, width) {
  const ink = token("--soft");
  const axis = { stroke: ink, font: "11px system-ui", grid: { stroke: token("--grid"), width: 1 }, ticks: { show: false } };
  return {
    width, height: HEIGHT, padding: [10, 8, 0, 0], legend: { show: false },
    cursor: { y: false, drag: { x: true, y: false }, sync: { key: "run" } },
    scales: { x: { time: false }, ...(chart.zero ? { y: { range: aroundZero } } : chart.steep ? { y: { distr: 3 } } : {}) },
    bands: chart.band ? [{ series: [chart.band[1], chart.band[0]], fill: `${token("--chart-3")}2e` }] : [],
    axes: [
      { ...axis, size: 26, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? String(tick) : "")) },
      { ...axis, size: 52, ...(chart.steep ? { filter: roundTicks, grid: { ...axis.grid, filter: roundTicks } } : {}), values: (_, ticks) => ticks.map((tick) => tick === null ? "" : (chart.key === "primary" && chart.write(0.5).endsWith("%") ? `${+(tick * 100).toFixed(1)} %` : chart.zero ? (tick === 0 ? "0" : signed(tick, 3)) : number(tick, 3))) },
    ],
    series: [{}, ...chart.series.map((one) => ({ label: one.label, stroke: token(one.colour), width: one.width, dash: one.dash, points: { show: one.dots ?? false, size: 4, fill: token(one.colour) }, spanGaps: false }))],
    hooks: { setCursor: [(plot) => state.legend(plot.cursor.idx)], drawAxes: [(plot) => drawMarks(plot, state.marks)] },
  };
}

/** Of a logarithmic axis only 1, 2 and 5 of each decade. */
function roundTicks(_, ticks) {
  return ticks.map((tick) => (/^[125]e/.test(Number(tick.toPrecision(3)).toExponential()) ? tick : null));
}

/** A range that shows zero, since the question is on which side of it one is. */
function aroundZero(_, low, high) {
  const reach = Math.max(Math.abs(low ?? 0), Math.abs(high ?? 0), 1e-3) * 1.15;
  return [Math.min(low ?? 0, -reach / 6), Math.max(high ?? 0, reach)];
}

function drawMarks(plot, signs) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.strokeStyle = token("--strong-line");
  const [ink, ground] = [token("--soft"), token("--panel")];
  ctx.lineWidth = devicePixelRatio;
  ctx.font = `${10 * devicePixelRatio}px system-ui`;
  ctx.textAlign = "left";
  ctx.textBaseline = "alphabetic";
  ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
  const placed = signs.toSorted((a, b) => a.x - b.x).map((sign) => ({ text: sign.text, x: Math.round(plot.valToPos(sign.x, "x", true)) })).filter(({ x }) => x >= bbox.left && x <= bbox.left + bbox.width);
  for (const { x } of placed) {
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  let free = -Infinity;
  for (const { text, x } of placed) {
    const wide = ctx.measureText(text).width;
    if (x < free || x + wide > bbox.left + bbox.width) continue;
    const [left, top, pad] = [x + 4 * devicePixelRatio, bbox.top + 9 * devicePixelRatio, 2 * devicePixelRatio];
    ctx.fillStyle = ground; // or lines would strike the words through
    ctx.fillRect(left - pad, bbox.top - pad, wide + 2 * pad, 12 * devicePixelRatio + pad);
    ctx.fillStyle = ink;
    ctx.fillText(text, left, top);
    free = x + wide + 10 * devicePixelRatio;
  }
  if (plot.scales.y.min < 0) {
    const y = Math.round(plot.valToPos(0, "y", true));
    ctx.setLineDash([]);
    ctx.strokeStyle = token("--soft");
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
  }
  ctx.restore();
}

function drawLegend(container, chart, plot, hovered) {
  const index = hovered ?? plot.data[0].length - 1;
  const where = plot.data[0][index];
  const values = chart.series.map((_, i) => plot.data[i + 1]?.[index] ?? null);
  const bounds = values.filter((_, i) => chart.series[i].bound);
  draw(container, [where, values, hovered === null], () => [
    h("span", {}, where === undefined ? "" : `boundary ${where}`),
    chart.series.map((one, i) => {
      const ever = plot.data[i + 1]?.some((value) => value !== null);
      if (!ever && one.expected) return h("span", {}, swatch(one), one.label, h("b", { class: "none" }, "not measured"));
      if (!ever || one.bound) return null;
      return h("span", {}, swatch(one), one.label, h("b", {}, values[i] === null ? "–" : chart.write(values[i])));
    }),
    bounds.length && bounds.every((value) => value !== null) ? h("span", {}, `95 %: ${bounds.map(chart.write).join(" to ")}`) : null,
  ]);
}

function swatch(one) {
  const line = s("line", { x1: 0, y1: 5, x2: 20, y2: 5, "stroke-width": Math.max(2, one.width), "stroke-dasharray": (one.dash ?? []).join(" ") });
  line.style.stroke = `var(${one.colour})`;
  return s("svg", { width: 20, height: 10, "aria-hidden": "true" }, line);
}

function token(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
