/** WebSocket: one connection held open, on which the server speaks when there is something to say. */

import { Subscription } from "../subscription.js";

const CONNECT_TIMEOUT = 10_000; // milliseconds
const SILENCE = 30_000; // a browser does not tell of the server's pings: is it quiet, or gone?

/** The browser half of pushlab/transports/websocket.py. */
export class WebSocketSubscription extends Subscription {
  listen(signal) {
    return new Promise((resolve, reject) => {
      const url = new URL("/update", location.href);
      url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
      url.searchParams.set("carry", this.carry ? 1 : 0);
      if (this.after) url.searchParams.set("after", this.after);
      const socket = new WebSocket(url);

      let timer = setTimeout(() => reject(new Error("no answer")), CONNECT_TIMEOUT);
      const listenOn = () => {
        clearTimeout(timer);
        if (signal.aborted) return; // during a check
        timer = setTimeout(() => this.check().then(listenOn), SILENCE);
      };
      const on = (event, listener) => socket.addEventListener(event, listener, { signal });

      on("open", () => {
        this.live();
        listenOn();
      });
      on("message", ({ data }) => {
        listenOn();
        // A fetch that fails is a connection that fails: the next one begins with what is missing.
        this.news(JSON.parse(data)).catch(reject);
      });
      on("close", ({ code }) => reject(new Error(`closed with ${code}`)));
      signal.addEventListener("abort", () => {
        clearTimeout(timer);
        socket.close(1000);
        reject(signal.reason);
      });
    });
  }
}
