// Puts the page together: connect, and redraw each part when what it shows has changed.

import { drawBudgets, loadBudgets } from "./budgets.js";
import { drawCharts } from "./charts.js";
import { connect, isStale, loadBlueprints } from "./connection.js";
import { drawDecisions, drawReports } from "./decisions.js";
import { draw, h } from "./dom.js";
import { drawForge, loadPolicies } from "./forge.js";
import { drawLanes, drawSites } from "./lanes.js";
import { drawAlerts, drawEvents, drawEventTools, drawServices } from "./machinery.js";
import { drawNotices, loadNotices } from "./notices.js";
import { drawPast, loadNames } from "./past.js";
import { drawResult, drawRunHead, drawRunList } from "./runs.js";
import { drawSeeds, showSeed } from "./seeds.js";
import { changed, onChange, selectedRun, store } from "./store.js";
import { drawVerdict, reasons } from "./verdict.js";
import { drawWaterfall } from "./waterfall.js";

const part = (id) => document.getElementById(id);
const THEMES = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };

function drawConnection() {
  const stale = isStale();
  document.body.classList.toggle("stale", stale && store.everConnected);
  document.body.classList.toggle("unheard", !store.everConnected);
  const words = !store.everConnected ? (store.refusal ? "refused" : "connecting") : stale ? "stale: not connected" : "live";
  part("connection").className = `connection ${stale ? (store.everConnected ? "away" : "") : "live"}`;
  draw(part("connection"), words, () => [h("span", { class: "dot", "aria-hidden": "true" }, stale ? "○" : "●"), words]);
}

function drawTitle() {
  const run = selectedRun();
  const worst = store.status && !isStale() ? reasons()[0]?.kind : "bad";
  const sign = worst === "bad" ? "✕ " : worst === "warn" ? "! " : "";
  document.title = `${sign}${run ? `${run.name} ${run.epoch}/${run.epochs ?? "?"} · ` : ""}Esper`;
}

function redraw() {
  drawConnection();
  drawVerdict(part("verdict"));
  drawRunList(part("runs"));
  drawRunHead(part("run-head"));
  drawCharts(part("run-charts"));
  drawResult(part("run-result"));
  drawSites(part("sites"));
  drawLanes(part("lanes"), showSeed);
  drawSeeds(part("seeds"));
  drawDecisions(part("decision-list"));
  drawWaterfall(part("waterfall"));
  drawReports(part("report-list"));
  drawServices(part("services"));
  drawForge(part("forge"));
  drawBudgets(part("budgets-list"));
  drawPast(part("past"));
  drawAlerts(part("alert-list"));
  drawNotices(part("notices"));
  drawEventTools(part("event-tools"));
  drawEvents(part("event-list"));
  drawTitle();
}

function setTheme(choice) {
  localStorage.setItem("theme", choice);
  const dark = choice === "dark" || (choice === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  part("theme").textContent = THEMES[choice];
  changed();
}

const chosen = () => localStorage.getItem("theme") ?? "auto";
part("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(chosen()) + 1) % names.length]);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(chosen()));
addEventListener("resize", changed);

onChange(redraw);
setTheme(chosen());
connect();
const EVERY_MS = 30_000;
function loadTheRest() {
  void loadBudgets();
  void loadPolicies();
  void loadNotices();
  void loadNames(changed);
}
loadTheRest();
setInterval(loadTheRest, EVERY_MS);
loadBlueprints().catch((error) => console.warn("the catalogue could not be loaded", error.message));
setInterval(changed, 1000); // for what the passing of time changes: staleness, "last news"
