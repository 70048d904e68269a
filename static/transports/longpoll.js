/** Long polling: ask, and the server answers when there is something to say; then ask again. */

import { Subscription } from "../subscription.js";

const TIMEOUT = 35_000; // milliseconds; the server answers within 25 s, news or not

/** The browser half of pushlab/transports/longpoll.py. */
export class LongPollSubscription extends Subscription {
  async listen(signal) {
    // The first answer does not wait for news: it shows that the server is there.
    let question = { timeout: 0 };
    while (!signal.aborted) {
      const after = this.after;
      const query = new URLSearchParams({ carry: this.carry ? 1 : 0, ...question });
      if (after) query.set("after", after);
      const answer = await this.fetch(`/update?${query}`, { cache: "no-store", timeout: TIMEOUT });
      if (answer.status === 200) {
        const message = await answer.json();
        this.live();
        await this.news(message);
        // To ask the same again would be answered at once, again and again.
        if (this.after === after) throw new Error(`${message.cursor} is no news`);
      } else if (answer.status === 204) {
        this.live(); // nothing new
      } else {
        throw new Error(`/update: ${answer.status}`);
      }
      question = {};
    }
  }
}
