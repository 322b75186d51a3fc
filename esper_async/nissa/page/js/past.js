// Any metric's past: an hour by the minute, a day, or thirty days by the hour.

import uPlot from "/page/vendor/uPlot.esm.js";
import { get } from "./connection.js";
import { draw, h, number } from "./dom.js";
import { store } from "./store.js";

const SPANS = { "1h": ["the last hour", 3600, 60], "24h": ["the last day", 86400, 600], "30d": ["the last 30 days", 2592000, 7200] };
const COLOURS = ["--chart-1", "--chart-3", "--chart-4", "--chart-2"];
const MOST = 8;
const DASHES = [[], [6, 4], [2, 3], [8, 3, 2, 3]];
let names = [];
let name = new URLSearchParams(location.search).get("metric") ?? "";
let span = new URLSearchParams(location.search).get("span") ?? "1h";
let shown = null; // what was fetched, or {error}
let plot = null;

export async function loadNames(redraw) {
  names = await get("/api/metrics/names").catch(() => []);
  if (name) await load(redraw);
  redraw();
}

async function load(redraw) {
  const [, seconds, step] = SPANS[span] ?? SPANS["1h"];
  const until = store.status?.time ?? Date.now() / 1000;
  const query = new URLSearchParams({ name, since: String(until - seconds), until: String(until), step: String(step) });
  shown = await get(`/api/metrics/history?${query}`).catch((error) => ({ error: error.message }));
  const url = new URL(location.href);
  url.searchParams.set("metric", name);
  url.searchParams.set("span", span);
  history.replaceState(null, "", url);
  redraw();
}

export function drawPast(container) {
  const redraw = () => drawPast(container);
  draw(container, [names, name, span, shown?.series?.length ?? shown?.error ?? null, shown?.step_s, document.documentElement.dataset.theme], () => {
    plot?.destroy();
    plot = null;
    const chooser = h("div", { class: "tools" },
      h("label", {}, "Metric ", h("select", { "data-key": "metric", onchange: (event) => { name = event.target.value; void load(redraw); } },
        h("option", { value: "" }, names.length ? "choose one of " + names.length : "none has a past yet"),
        names.map((each) => h("option", { value: each, selected: each === name }, each.replace("esper_", ""))))),
      h("label", {}, "over ", h("select", { "data-key": "span", onchange: (event) => { span = event.target.value; if (name) void load(redraw); } },
        Object.entries(SPANS).map(([key, [words]]) => h("option", { value: key, selected: key === span }, words)))));
    if (!name || !shown) return [chooser, h("p", { class: "soft small" }, "Thirty days are kept on disk; gaps are times that were not measured.")];
    if (shown.error) return [chooser, h("p", { class: "small", role: "alert" }, shown.error)];
    const holder = h("div", { class: "plot", role: "img", "aria-label": `${name} over ${SPANS[span][0]}` });
    queueMicrotask(() => { plot = drawPlot(holder); });
    const lines = shown.series.slice(0, MOST);
    return [chooser,
      h("div", { class: "legend" }, lines.map((series, index) => h("span", {}, h("i", { class: `swatch s${index % COLOURS.length}`, "aria-hidden": "true" }), Object.entries(series.labels).map(([key, text]) => `${key}=${text}`).join(" ") || "value")), shown.series.length > MOST ? h("span", {}, `and ${shown.series.length - MOST} more`) : null),
      holder,
      h("p", { class: "soft small" }, shown.kind === "counter" ? `Increase in each ${shown.step_s / 60} minutes` : `Mean of each ${shown.step_s / 60} minutes`, shown.source === "prometheus" ? ", from Prometheus." : ", from the roll-ups on disk.")];
  });
}

function drawPlot(holder) {
  const lines = shown.series.slice(0, MOST);
  const times = [...new Set(lines.flatMap((series) => series.points.map((point) => point.time)))].sort((a, b) => a - b);
  const columns = lines.map((series) => {
    const known = new Map(series.points.map((point) => [point.time, point.value]));
    return times.map((time) => known.get(time) ?? null);
  });
  const token = (key) => getComputedStyle(document.documentElement).getPropertyValue(key).trim();
  const axis = { stroke: token("--soft"), font: "11px system-ui", grid: { stroke: token("--grid"), width: 1 }, ticks: { show: false } };
  return new uPlot({
    width: holder.clientWidth, height: 190, legend: { show: false }, cursor: { y: false },
    axes: [{ ...axis, size: 26 }, { ...axis, size: 62, values: (_, ticks) => ticks.map((tick) => number(tick, 3)) }],
    series: [{}, ...lines.map((_, index) => ({ stroke: token(COLOURS[index % COLOURS.length]), dash: DASHES[Math.floor(index / COLOURS.length) % DASHES.length], width: 1.6, points: { show: times.length < 40, size: 4 }, spanGaps: false }))],
  }, [times, ...columns], holder);
}
