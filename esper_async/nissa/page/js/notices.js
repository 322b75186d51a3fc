// Messages about alerts: what no channel took can be sent again.

import { get } from "./connection.js";
import { confirm } from "./dialog.js";
import { clock, draw, h, pill } from "./dom.js";
import { changed, store } from "./store.js";

const KIND = { sent: "good", waiting: "warn", dead: "bad" };

/** Fetch the latest messages. */
export async function loadNotices() {
  store.notices = await get("/api/notifications?limit=20").catch(() => store.notices);
  changed();
}

export function drawNotices(container) {
  draw(container, store.notices, () => store.notices.length === 0 ? [] : h("details", { "data-key": "notices", open: store.notices.some((notice) => notice.state === "dead") },
    h("summary", {}, `Messages about alerts (${store.notices.length})`),
    h("ol", { class: "items" }, store.notices.map((notice) => h("li", {},
      h("div", { class: "when" }, clock(notice.made_at)),
      h("div", {},
        h("div", { class: "title" }, notice.channel, pill(notice.state, KIND[notice.state])),
        h("div", { class: "small" }, notice.alerts.map((alert) => `${alert.name} ${alert.state}`).join(", ")),
        notice.reason ? h("div", { class: "soft small" }, notice.reason) : null,
        notice.state === "dead" ? h("button", { type: "button", class: "button", "data-key": `notice ${notice.id}`, onclick: () => confirm({ title: "Send it again?", text: "It goes to the same channel, as it was.", deed: "Send again", path: `/api/notifications/${notice.id}/replay`, done: "It waits for its channel.", after: loadNotices }) }, "Send again") : null))))));
}
