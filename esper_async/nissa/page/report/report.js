// Draws a report from the story that its file holds.

import { drawCharts } from "../js/charts.js";
import { drawDecisions, drawReports } from "../js/decisions.js";
import { draw, h, number, pill } from "../js/dom.js";
import { drawLanes, drawSites } from "../js/lanes.js";
import { drawResult, drawRunHead, primaryOf } from "../js/runs.js";
import { drawSeeds, showSeed } from "../js/seeds.js";
import { applyView, emptyPicture, onChange, store } from "../js/store.js";
import { drawWaterfall } from "../js/waterfall.js";

const part = (id) => document.getElementById(id);
const story = JSON.parse(part("story").textContent);
const ENDS = { completed: ["completed", "good"], stopped: ["stopped", ""], failed: ["failed", "bad"], running: ["still running", "info"], paused: ["paused", "warn"], queued: ["queued", ""] };
const NOTES = { run_started: "It began.", paused: "It was paused.", resumed: "It went on.", rollback: "It went back", command_refused: "A command was refused", early_stop: "Training ended early", emergency: "An emergency", run_ended: "It ended." };

document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
store.report = true;
store.connected = store.everConnected = true;
store.blueprints = new Map(story.blueprints.map((each) => [each.id, each]));
store.selected = story.view.run.id;
store.runs = [story.view.run];
store.picture = emptyPicture(story.view.run.id);
applyView(store.picture, story.view);

function verdict() {
  const { run } = story.view;
  const [words, kind] = ENDS[run.state] ?? [run.state, ""];
  const kept = [...store.picture.seeds.values()].filter((seed) => seed.lane.some((entry) => entry.to_stage === "FOSSILIZED")).length;
  const primary = primaryOf(store.picture);
  const last = store.picture.rows.at(-1)?.metrics[primary.name];
  const made = new Date(story.made_at * 1000).toLocaleString("en-GB");
  return h("div", {},
    h("h1", {}, run.name, " ", pill(words, kind)),
    h("p", {}, `${run.epoch} of ${run.epochs ?? "?"} epochs, ${store.picture.seeds.size} seeds tried, ${kept} kept; ${primary.label} ${primary.write(last)} at the end.`),
    h("p", { class: "soft small" }, `Report of ${made}. `, Object.entries(story.versions).map(([name, version]) => `${name} ${version}`).join(", ")));
}

function notes() {
  const told = store.picture.notes.filter((note) => note.kind in NOTES);
  return told.length ? h("ol", { class: "items" }, told.map((note) => h("li", {},
    h("div", { class: "when" }, `boundary ${number(note.boundary)}`),
    h("div", {}, NOTES[note.kind], note.reason ? `: ${note.reason}` : "")))) : h("p", { class: "soft" }, "Nothing out of the ordinary.");
}

function runFile() {
  if (!story.run_file) return h("p", { class: "soft" }, "The run file is not known.");
  return [h("p", { class: "small" }, "Save this as ", h("code", {}, "run.toml"), ", then ", h("code", {}, "bin/esper-supervisor up --run run.toml"), ". The task's own code is not in it."), h("pre", { tabindex: 0 }, h("code", {}, story.run_file))];
}

function redraw() {
  draw(part("verdict"), "verdict", verdict);
  drawRunHead(part("run-head"));
  drawCharts(part("run-charts"));
  drawResult(part("run-result"));
  drawSites(part("sites"));
  drawLanes(part("lanes"), showSeed);
  drawSeeds(part("seeds"));
  drawDecisions(part("decision-list"));
  drawWaterfall(part("waterfall"));
  drawReports(part("report-list"));
  draw(part("note-list"), "notes", notes);
  draw(part("run-file"), "file", runFile);
}

onChange(redraw);
addEventListener("resize", redraw);
redraw();
