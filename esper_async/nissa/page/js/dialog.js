// Asking before something is changed, and saying what came of it.

import { h } from "./dom.js";
import { post } from "./connection.js";
import { say } from "./toast.js";

const dialog = document.getElementById("ask");

/**
 * Ask, then send; the result is said in a toast. `deed` is what the button says, `ask` an input whose
 * text goes into the body under its name, `after` what is done once it was accepted.
 */
export function confirm({ title, text, deed, danger = false, path, body, done, ask, after }) {
  const input = ask ? h("input", { type: "text", id: "ask-input", maxlength: 200, required: true, value: ask.value ?? "", autocomplete: "off" }) : null;
  const go = h("button", { type: "button", class: `button primary ${danger ? "danger" : ""}` }, deed);
  const back = h("button", { type: "button", class: "button" }, "Leave it");
  dialog.replaceChildren(
    h("h2", { id: "ask-title" }, title),
    h("p", { class: "soft" }, text),
    input ? h("p", {}, h("label", { for: "ask-input" }, ask.label), input) : "",
    h("div", { class: "choices" }, back, go),
  );
  back.addEventListener("click", () => dialog.close());
  go.addEventListener("click", async () => {
    if (input && !input.reportValidity()) return;
    go.disabled = true;
    try {
      await post(path, input ? { ...body, [ask.name]: input.value } : body);
      say(done);
      await after?.();
    } catch (error) {
      say(error.message, "bad");
    }
    dialog.close();
  });
  dialog.showModal();
  (input ?? back).focus();
}
