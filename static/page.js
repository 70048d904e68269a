/** The page: makes the lanes, lets time pass, and lets go of every connection when nobody looks. */

import { offset, uncertainty } from "./clock.js";
import { Lane, reducedMotion } from "./lane.js";
import { LongPollSubscription } from "./transports/longpoll.js";
import { WebSocketSubscription } from "./transports/websocket.js";

const TRANSPORTS = { websocket: WebSocketSubscription, longpoll: LongPollSubscription };

const reading = JSON.parse(document.body.dataset.reading);

// The truth hears through a WebSocket of its own, like that of a lane, with the reading carried.
// It is as true as that connection is quick; the socket of the instruments will replace it.
const truth = document.querySelector("[data-truth]");
const lanes = [new Lane(truth, WebSocketSubscription, { name: "truth", reading, carry: true })];

for (const element of document.querySelectorAll("[data-transport]")) {
  const name = element.dataset.transport;
  lanes.push(new Lane(element, TRANSPORTS[name], { name, reading }));
}

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
document.querySelector("[data-field=times]").textContent =
  `Times are in your time zone, ${zone}; ages are corrected by the offset of the server's clock ` +
  `from yours: ${String(Math.round(offset)).replace("-", "−")} ms, ± ${Math.ceil(uncertainty)} ms.`;

let ticking;

function resume() {
  // A page that is opened in the background, or rendered ahead, waits until somebody looks.
  if (document.hidden) return;
  clearInterval(ticking);
  ticking = setInterval(() => lanes.forEach((lane) => lane.tick()), reducedMotion.matches ? 1000 : 100);
  lanes.forEach((lane) => lane.resume());
}

function suspend() {
  clearInterval(ticking);
  lanes.forEach((lane) => lane.suspend());
}

// A hidden tab would hold connections of which a browser has six per host, for all its tabs; and a
// page that holds one cannot be kept for the Back button.
document.addEventListener("visibilitychange", () => (document.hidden ? suspend() : resume()));
addEventListener("pagehide", suspend);
addEventListener("pageshow", resume);
reducedMotion.addEventListener("change", resume);
resume();
