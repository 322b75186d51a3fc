// A short message in the corner that goes away by itself.

import { h } from "./dom.js";

const toast = document.getElementById("toast");

export function say(text, kind = "") {
  const line = h("p", { class: kind }, text);
  toast.append(line);
  setTimeout(() => line.remove(), kind === "bad" ? 9000 : 4500);
}
