// The objectives of the last thirty days: what is left of each error budget, and how fast it goes.

import { get } from "./connection.js";
import { draw, h, number, percent, pill } from "./dom.js";
import { changed, store } from "./store.js";

const FAST = 14.4;
const SLOW = 6;

/** Fetch the budgets; they change with each evaluation of the alerts, every half a minute. */
export async function loadBudgets() {
  store.budgets = await get("/api/slos").catch(() => store.budgets);
  changed();
}

/** How an account stands: [words, kind]. */
function standing(budget) {
  if (budget.budget_left === null) return ["not measured", ""];
  const burns = (long, short, factor) => budget.burn[long] >= factor && budget.burn[short] >= factor;
  if (burns("1h", "5m", FAST)) return ["burns fast", "bad"];
  if (burns("6h", "30m", SLOW)) return ["burns", "warn"];
  if (budget.budget_left < 0) return ["overdrawn", "bad"];
  return ["kept", "good"];
}

export function drawBudgets(container) {
  const budgets = store.budgets;
  draw(container, budgets, () => {
    if (!budgets.length) return h("p", { class: "soft" }, "Nothing has been judged yet: the first evaluation is half a minute after the start.");
    const measured = budgets.filter((budget) => budget.budget_left !== null);
    const row = (budget) => h("tr", {},
      h("td", {}, h("strong", {}, budget.service), " ", h("span", { class: "soft" }, budget.kind)),
      h("td", {}, budget.text),
      h("td", { class: "num" }, percent(budget.target, 1)),
      h("td", { class: "num" }, percent(budget.good_ratio, 2)),
      h("td", { class: "num" }, percent(budget.budget_left, 0)),
      h("td", { class: "num" }, budget.burn["1h"] === null ? "too little yet" : `${number(budget.burn["1h"], 2)} ×`),
      h("td", {}, pill(...standing(budget))));
    const worst = measured.toSorted((a, b) => a.budget_left - b.budget_left);
    return [
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Objectives" }, h("table", {},
        h("thead", {}, h("tr", {}, h("th", {}, "objective"), h("th", {}, "what it says"), h("th", { class: "num" }, "asked"), h("th", { class: "num" }, "was good"), h("th", { class: "num" }, "budget left"), h("th", { class: "num" }, "burn, 1 h"), h("th", {}, ""))),
        h("tbody", {}, worst.map(row)))),
      measured.length < budgets.length ? h("p", { class: "soft small more" }, `Not measured, since nothing of the kind has happened: ${budgets.filter((budget) => budget.budget_left === null).map((budget) => budget.name).join(", ")}.`) : null,
    ];
  });
}
