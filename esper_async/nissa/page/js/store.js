// What the page knows: the state of the system, the list of runs, and the selected run's picture.

export const store = {
  report: false, // drawn from a file, with nobody to ask
  connected: false,
  everConnected: false,
  refusal: null, // why the server does not let this page in, in its own words
  heardAt: 0, // performance.now() of the last message
  skew: 0, // server time minus ours, seconds
  status: null,
  runs: [],
  selected: null,
  picture: null,
  events: [],
  blueprints: new Map(),
  budgets: [],
  policies: [],
  policyHistory: [],
  notices: [],
};

const EVENTS_KEPT = 300;
const ITEMS_KEPT = 2000;
const listeners = new Set();
let scheduled = false;

/** Be called, at most once a frame, after something changed. */
export function onChange(listener) {
  listeners.add(listener);
}

export function changed() {
  if (scheduled) return;
  scheduled = true;
  // A hidden tab gets no frames; a timer keeps its title and its state current.
  const next = document.hidden ? (run) => setTimeout(run, 500) : requestAnimationFrame;
  next(() => {
    scheduled = false;
    for (const listener of listeners) listener(store);
  });
}

/** Unix time of the server, now. */
export function serverNow() {
  return Date.now() / 1000 + store.skew;
}

/** A picture without anything in it. */
export function emptyPicture(id) {
  return { id, seq: 0, run: null, start: {}, end: null, rows: [], seeds: new Map(), decisions: [], reports: [], notes: [], checkpoints: 0, faults: [], updatedAt: null };
}

/**
 * Take in what is new in a run. Returns false if something before it is missing, so that the whole
 * has to be fetched again. A row replaces the rows of its own boundary and of later ones.
 */
export function applyView(picture, view) {
  if (view.after_seq > picture.seq) return false;
  const known = picture.seq;
  for (const row of view.rows) {
    if (row.seq <= known) continue;
    while (picture.rows.length && picture.rows.at(-1).boundary >= row.boundary) picture.rows.pop();
    picture.rows.push(slim(row));
  }
  for (const seed of view.seeds) picture.seeds.set(seed.id, seed);
  append(picture.decisions, view.decisions, known);
  for (const { command_id, moved } of view.explanations) {
    const decided = picture.decisions.find((item) => item.command.id === command_id);
    if (decided) decided.moved = moved;
  }
  append(picture.reports, view.field_reports, known);
  append(picture.notes, view.notes, known);
  picture.seq = Math.max(picture.seq, view.seq);
  picture.run = view.run;
  picture.start = view.start;
  picture.end = view.end;
  picture.checkpoints = view.checkpoints;
  picture.faults = view.faults;
  picture.updatedAt = view.updated_at;
  return true;
}

function append(list, items, known) {
  for (const item of items) if (item.seq > known) list.push(item);
  if (list.length > ITEMS_KEPT) list.splice(0, list.length - ITEMS_KEPT);
}

/** Of a boundary only what is drawn, so that a day of them fits in memory. */
function slim(row) {
  const judged = row.seeds.find((seed) => seed.benefit_vs_twin && ["SHADOWING", "PROBATIONARY"].includes(seed.stage));
  const alphas = row.seeds.filter((seed) => seed.alpha !== null && seed.alpha > 0).map((seed) => [seed.id, seed.alpha]);
  return {
    boundary: row.boundary, epoch: row.epoch, time: row.time, metrics: row.metrics,
    ms: row.boundary_ms?.total ?? null, parts: row.boundary_ms, overhead: row.overhead_ratio, shadow: row.shadow_cost_ratio ?? null,
    rate: row.samples_per_s, parameters: row.parameters, learningRate: row.learning_rate, alphas,
    benefit: judged?.benefit_vs_twin ?? null,
  };
}

export function addEvents(items) {
  store.events = [...items.toReversed(), ...store.events].slice(0, EVENTS_KEPT);
}

/** The list's entry of the selected run, with the picture's own summary over it. */
export function selectedRun() {
  const listed = store.runs.find((run) => run.id === store.selected) ?? null;
  const told = store.picture?.id === store.selected ? store.picture.run : null;
  if (!listed) return told;
  return told ? { ...told, ...listed, metrics: told.metrics, boundary_ms: told.boundary_ms, overhead_ratio: told.overhead_ratio, epoch: told.epoch } : listed;
}

/** BP016 squeeze excitation, as people call it. */
export function blueprintName(id) {
  if (!id) return "unknown blueprint";
  const known = store.blueprints.get(id);
  return known ? known.name.replaceAll("_", " ") : id;
}
