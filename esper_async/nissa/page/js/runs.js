// The list of runs, and the head of the selected one: how far, how good, how costly, and its actions.

import { clock, draw, h, milliseconds, number, percent, pill, shortly, signed, span } from "./dom.js";
import { select } from "./connection.js";
import { confirm } from "./dialog.js";
import { selectedRun, serverNow, store } from "./store.js";
import { say } from "./toast.js";

const STATE = { queued: ["queued", ""], running: ["running", "info"], paused: ["paused", "warn"], completed: ["completed", "good"], failed: ["failed", "bad"], stopped: ["stopped", ""] };

export function drawRunList(container) {
  const shown = store.runs.slice(0, 30);
  draw(container, [store.selected, shown.map((run) => [run.id, run.state, run.epoch, run.epochs])], () =>
    shown.length === 0
      ? h("p", { class: "soft small" }, "None yet.")
      : shown.map((run) =>
          h("button", { type: "button", class: "run-link", "data-key": run.id, "aria-current": String(run.id === store.selected), onclick: () => select(run.id) },
            h("span", { class: "name" }, h("span", {}, run.name), pill(...STATE[run.state])),
            h("span", { class: "when" }, `epoch ${run.epoch}${run.epochs ? ` of ${run.epochs}` : ""}${run.created_at ? ` · ${shortly(run.created_at)}` : ""}`))));
}

/** How the primary metric is called and read: its name, whether larger is better, how to write it. */
export function primaryOf(picture) {
  const last = picture.rows.at(-1)?.metrics ?? {};
  const told = picture.start.primary_metric;
  const name = [told, `validation_${told}`, "validation_accuracy", "validation_loss"].find((key) => key && key in last) ?? "validation_loss";
  const share = name.includes("accuracy");
  return { name, label: name.replaceAll("_", " "), larger: picture.start.maximize ?? share, write: share ? percent : number };
}

export function drawRunHead(container) {
  const run = selectedRun();
  const picture = store.picture;
  if (!run || !picture) {
    draw(container, "none", () => [h("h2", { id: "run-title" }, "No run yet"), h("p", { class: "soft" }, "Start one with ", h("code", {}, "esper-supervisor run digits"), ".")]);
    return;
  }
  const last = picture.rows.at(-1);
  const doing = phase(run);
  const quiet = run.state === "running" && !doing && picture.updatedAt ? span(serverNow() - picture.updatedAt) : "";
  draw(container, [run.id, run.state, run.error, run.epoch, picture.seq, quiet, doing], () => [
    h("div", { class: "head" },
      h("div", {}, h("h2", { id: "run-title", class: "big" }, run.name), h("p", { class: "soft small" }, h("span", { class: "mono" }, run.id), run.created_at ? ` · started ${clock(run.created_at)}` : "", quiet ? ` · last news ${quiet} ago` : "")),
      pill(...STATE[run.state]),
      h("span", { class: "soft" }, "policy ", h("strong", {}, run.policy ?? "unknown")),
      h("div", { class: "actions" }, actions(run))),
    run.error ? h("p", { class: "small", role: "alert" }, pill("error", "bad"), " ", run.error) : null,
    progress(run, last ? doing : ""),
    again(run),
    last ? h("div", { class: "tiles" }, tiles(run, picture, last)) : h("p", { class: "soft" }, waiting(run)),
  ]);
}

/** What a run does before there is anything to show of it. */
function waiting(run) {
  if (run.state === "queued") return "It waits for its turn.";
  const doing = phase(run);
  if (doing) return `Preparing: ${doing}.`;
  return run.state === "running" ? "Training goes on towards the first boundary." : "It reached no boundary.";
}

/** What its training process is at when that is not training: words, or none. */
function phase(run) {
  const { phase: name, step, done, total } = run.progress ?? {};
  if (name) return `${name}${total ? ` ${done} of ${total}` : ""}`;
  return step === null ? "starting its process" : "";
}

/** How to train this very run once more, and how to send its story to a colleague. */
function again(run) {
  if (store.report) return null; // a report ends with the run file itself
  const file = `${run.name.replace(/[^\w.-]/g, "-")}.toml`;
  const command = `curl -s ${location.origin}/api/runs/${run.id}/file -o ${file} && bin/esper-supervisor run ${file}`;
  const copy = h("button", { type: "button", class: "quiet", "data-key": "copy-command", onclick: () => navigator.clipboard.writeText(command).then(() => say("The command was copied."), () => say("Copying is not allowed here; select the text.", "bad")) }, "Copy");
  return h("details", { class: "again small", "data-key": "again" },
    h("summary", {}, "Reproduce or send it"),
    h("p", {}, h("code", {}, command), " ", copy),
    h("p", { class: "soft" }, "Add --state-dir DIR where this supervisor was given one."),
    h("p", {}, h("a", { href: `/api/runs/${run.id}/report` }, "The same story as one file"), " to send to a colleague; ", h("a", { href: `/api/runs/${run.id}/file` }, "its run file"), "."));
}

function progress(run, doing) {
  if (!run.epochs) return null;
  const done = Math.min(1, run.epoch / run.epochs);
  // Its width is set through the DOM: the page's policy allows no inline style.
  const bar = h("i");
  bar.style.width = `${100 * done}%`;
  return [h("div", { class: "progress", role: "progressbar", "aria-label": "Epochs", "aria-valuemin": 0, "aria-valuemax": run.epochs, "aria-valuenow": run.epoch }, bar),
    h("p", { class: "soft small" }, `Epoch ${run.epoch} of ${run.epochs}`, doing ? ` · ${doing}` : "")];
}

function tiles(run, picture, last) {
  const primary = primaryOf(picture);
  const values = picture.rows.map((row) => row.metrics[primary.name]).filter((value) => value !== null && value !== undefined);
  const best = values.length ? values.reduce((a, b) => (primary.larger ? Math.max(a, b) : Math.min(a, b))) : null;
  const host = picture.start.host_parameters ?? null;
  const parameters = picture.end?.parameters ?? last.parameters; // the last boundary may count a seed removed at the end
  const added = host !== null && parameters !== null ? parameters - host : null;
  const kept = [...picture.seeds.values()].filter((seed) => seed.stage === "FOSSILIZED" || seed.lane.some((entry) => entry.to_stage === "FOSSILIZED"));
  return [
    tile(primary.label, primary.write(last.metrics[primary.name]), best === null ? "" : `best ${primary.write(best)}`),
    primary.name === "validation_loss"
      ? tile("training loss", number(last.metrics.training_loss), "over the epoch")
      : tile("validation loss", number(last.metrics.validation_loss), `training ${number(last.metrics.training_loss)}`),
    tile("seeds kept", String(kept.length), `${picture.seeds.size} tried`),
    tile("parameters", number(parameters), added === null ? "" : added === 0 ? "nothing added" : `${signed(added, 0)} (${percent(added / host, 0)})`),
    tile("boundary", milliseconds(run.boundary_ms.p50), `99 %: ${milliseconds(run.boundary_ms.p99)}`),
    tile("cost of growing", last.overhead === null ? "not measured" : `× ${last.overhead.toFixed(2)}`, `in time${last.shadow === null ? "" : ` · shadow work × ${last.shadow.toFixed(2)}`}`),
  ];
}

function tile(label, value, hint) {
  return h("div", { class: "tile" }, h("div", { class: "label" }, label), h("div", { class: "value" }, value), h("div", { class: "hint" }, hint));
}

function actions(run) {
  const path = (deed) => `/api/runs/${encodeURIComponent(run.id)}/${deed}`;
  const button = (text, request, danger) => h("button", { type: "button", class: `button ${danger ? "danger" : ""}`, "data-key": text, onclick: () => confirm(request) }, text);
  if (store.report || !["queued", "running", "paused"].includes(run.state)) return [];
  return [
    run.state === "paused"
      ? button("Resume", { title: `Resume ${run.name}?`, text: "It goes on from where it was held.", deed: "Resume", path: path("resume"), done: "The run was asked to go on." })
      : button("Pause", { title: `Pause ${run.name}?`, text: "It is held after the current batch and keeps its memory.", deed: "Pause", path: path("pause"), done: "The run was asked to pause." }),
    run.state === "running" ? button("Roll back", { title: `Roll ${run.name} back?`, text: "It returns to its last checkpoint; what was trained since is lost.", deed: "Roll back", danger: true, path: path("rollback"), body: {}, done: "The run was asked to roll back." }) : null,
    run.state === "running" ? button("Freeze", { title: `Freeze ${run.name} at once?`, text: "An emergency of the highest level: within a batch its weights stand still. Everybody is told why, and it stays frozen until somebody resumes it.", deed: "Freeze it", danger: true, path: path("emergency"), body: { level: "critical" }, ask: { name: "reason", label: "Why" }, done: "The run is frozen." }, true) : null,
    button("Stop", { title: `Stop ${run.name} for good?`, text: "It keeps the network as it is now and cannot be resumed.", deed: "Stop the run", danger: true, path: path("stop"), done: "The run was asked to stop." }, true),
  ];
}

/** The honest table at the end of a run; without baselines, what the test split said. */
export function drawResult(container) {
  const { comparison: rows = [], test } = store.picture?.end ?? {};
  draw(container, [store.selected, store.picture?.end?.seq ?? 0], () => {
    if (!rows.length) return test ? testAlone(test) : [];
    const best = Math.max(...rows.map((row) => row.value));
    const share = rows[0].metric.includes("accuracy");
    const write = share ? percent : number;
    return h("div", { class: "result" },
      h("h3", {}, "On the test split, read once at the end"),
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Results on the test split" }, h("table", { class: "stacked" },
        h("thead", {}, h("tr", {}, h("th", {}, "network"), h("th", { class: "num" }, rows[0].metric), h("th", {}, "95 % interval over samples"), h("th", { class: "num" }, "parameters"), h("th", { class: "num" }, "wall-clock"), h("th", { class: "num" }, "compute"))),
        h("tbody", {}, rows.map((row) => h("tr", {},
          h("td", {}, row.name),
          h("td", { class: `num ${row.value === best && share ? "best" : ""}` }, write(row.value)),
          h("td", { "data-label": "95 %" }, row.low === null ? h("span", { class: "none" }, "not measured") : `${write(row.low)} to ${write(row.high)}`),
          h("td", { class: "num", "data-label": "parameters" }, number(row.parameters)),
          h("td", { class: "num", "data-label": "wall-clock" }, row.wall_s === null ? "?" : span(row.wall_s)),
          h("td", { class: "num", "data-label": "compute" }, row.macs ? `${(row.macs / 1e9).toFixed(1)} GMAC` : "?")))))),
      h("p", { class: "soft small" }, "One run is not evidence: the intervals are over test samples, not over runs."));
  });
}

function testAlone(test) {
  return h("div", { class: "result" },
    h("h3", {}, "On the test split, read once at the end"),
    h("p", {}, Object.entries(test).map(([name, value]) => `${name.replaceAll("_", " ")} ${name.includes("accuracy") ? percent(value) : number(value)}`).join(" · ")),
    h("p", { class: "soft small" }, "It was compared with nothing: the run trained no baselines."));
}
