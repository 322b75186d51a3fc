// The objectives of the last thirty days: what is left of each error budget, and how fast it goes.

import { get } from "./connection.js";
import { draw, h, number, percent, pill } from "./dom.js";
import { changed, store } from "./store.js";

const FAST = 14.4;
const SLOW = 6;
const GLANCE = 6;
const TELLING = 100; // fewer events than this say nothing about a rate
const HEADINGS = [["objective", ""], ["what it says", ""], ["asked", "num"], ["was good", "num"], ["budget left", "num"], ["burn, 1 h", "num"], ["", ""]];
let all = false;

/** Fetch the budgets; they change with each evaluation of the alerts, every half a minute. */
export async function loadBudgets() {
  store.budgets = await get("/api/slos").catch(() => store.budgets);
  changed();
}

/** How an account stands: [words, kind]. */
export function standing(budget) {
  if (budget.budget_left === null) return ["not measured", ""];
  if (budget.events < TELLING) return ["too little yet", ""];
  const burns = (long, short, factor) => budget.burn[long] >= factor && budget.burn[short] >= factor;
  if (burns("1h", "5m", FAST)) return ["burns fast", "bad"];
  if (burns("6h", "30m", SLOW)) return ["burns", "warn"];
  if (budget.budget_left < 0) return ["overdrawn", "warn"];
  return ["kept", "good"];
}

export function drawBudgets(container) {
  const budgets = store.budgets;
  draw(container, [budgets, all], () => {
    if (!budgets.length) return h("p", { class: "soft" }, "Nothing has been judged yet: the first evaluation is half a minute after the start.");
    const measured = budgets.filter((budget) => budget.budget_left !== null);
    const unknown = budgets.filter((budget) => budget.budget_left === null);
    return [measured.length ? table(measured) : null, more(container, measured), unknown.length ? unmeasured(unknown) : null];
  });
}

/** The worst first; of those that are kept only as many as a glance takes in, unless all are wanted. */
function table(measured) {
  const rank = (budget) => ["bad", "warn"].indexOf(standing(budget)[1]) + 1 || 3;
  const worst = measured.toSorted((a, b) => rank(a) - rank(b) || a.budget_left - b.budget_left);
  const shown = worst.filter((budget, index) => all || index < GLANCE || rank(budget) < 3);
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Objectives" },
    // on a phone a row becomes a block, which would take the table's roles away
    h("table", { class: "stacked", role: "table" },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, HEADINGS.map(([words, kind]) => h("th", { class: kind, role: "columnheader" }, words)))),
      h("tbody", { role: "rowgroup" }, shown.map(row))));
}

function row(budget) {
  const burn = budget.burn["1h"];
  const cells = [
    [h("strong", {}, budget.service), " ", h("span", { class: "soft" }, budget.kind)],
    budget.text, percent(budget.target, 1), percent(budget.good_ratio, 2), percent(budget.budget_left, 0),
    burn === null ? "too little yet" : `${number(burn, 2)} ×`,
    pill(...standing(budget)),
  ];
  return h("tr", { role: "row" }, cells.map((cell, index) => h("td", { class: HEADINGS[index][1], role: "cell", "data-label": HEADINGS[index][1] ? HEADINGS[index][0] : null }, cell)));
}

function more(container, measured) {
  if (measured.length <= GLANCE) return null;
  const turn = () => { all = !all; drawBudgets(container); };
  return h("button", { type: "button", class: "quiet", "data-key": "all-objectives", onclick: turn }, all ? "Show the worst alone" : `Show all ${measured.length}`);
}

function unmeasured(budgets) {
  return h("details", { class: "soft small more", "data-key": "unmeasured" },
    h("summary", {}, `Not measured, since nothing of the kind has happened: ${budgets.length} of the objectives`),
    budgets.map((budget) => budget.name).join(", "), ".");
}
