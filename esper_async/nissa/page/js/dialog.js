// Asking before something is changed, and saying what came of it.

import { h } from "./dom.js";
import { post } from "./connection.js";
import { say } from "./toast.js";

const dialog = document.getElementById("ask");

/** Ask, then send; the result is said in a toast. `deed` is what the button says. */
export function confirm({ title, text, deed, danger = false, path, body, done }) {
  const go = h("button", { type: "button", class: `button primary ${danger ? "danger" : ""}` }, deed);
  const back = h("button", { type: "button", class: "button" }, "Leave it");
  dialog.replaceChildren(
    h("h2", { id: "ask-title" }, title),
    h("p", { class: "soft" }, text),
    h("div", { class: "choices" }, back, go),
  );
  back.addEventListener("click", () => dialog.close());
  go.addEventListener("click", async () => {
    go.disabled = true;
    try {
      await post(path, body);
      say(done);
    } catch (error) {
      say(error.message, "bad");
    }
    dialog.close();
  });
  dialog.showModal();
  back.focus();
}
