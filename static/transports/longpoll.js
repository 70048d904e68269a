/** Long polling: ask, and the server answers when there is something to say; then ask again. */

import { Subscription } from "../subscription.js";

const FIRST_TIMEOUT = 10_000; // milliseconds
const TIMEOUT = 35_000; // the server answers within 25 s, news or not

/** The browser half of pushlab/transports/longpoll.py. */
export class LongPollSubscription extends Subscription {
  async listen(signal) {
    for (let first = true; !signal.aborted; first = false) {
      const after = this.after;
      const query = new URLSearchParams({ carry: this.carry ? 1 : 0 });
      if (after) query.set("after", after);
      if (first) query.set("timeout", 0); // do not wait for news: show that you are there
      const answer = await this.fetch(`/update?${query}`, {
        cache: "no-store",
        timeout: first ? FIRST_TIMEOUT : TIMEOUT,
      });
      if (answer.status === 200) {
        const message = await answer.json();
        this.live();
        await this.news(message);
        // The same question would be answered at once, again and again.
        if (this.after === after) throw new Error(`${message.cursor} is no news`);
      } else if (answer.status === 204) {
        this.live(); // there is no news: ask again
      } else {
        throw new Error(`/update: ${answer.status}`);
      }
    }
  }
}
