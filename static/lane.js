/** A lane: one transport on the page, what it has brought, how long ago, and how it is doing. */

import { serverNow } from "./clock.js";
import { age, details, headline, localTime, sequence } from "./reading.js";

const LONG = 48; // characters; a longer headline is shown small, in a box that scrolls
const SHORT = 14;

/** Motion on the page is a courtesy, never needed. */
export const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** Shows in an element what a subscription hears; the element's buttons steer it, if it has any. */
export class Lane {
  #element;
  #subscription;
  #wanted = true; // the reader has not stopped it
  #changedAt = 0;
  #retryAt = null;

  /** `transport` is the subscription's class, `reading` what the page shows already. */
  constructor(element, transport, { name, reading, carry = false }) {
    this.#element = element;
    this.#subscription = new transport({
      name,
      after: reading.cursor,
      carry,
      onState: (state, detail) => this.#showState(state, detail),
      onReading: (news) => this.#showNews(news),
    });
    this.#show(reading);
    this.#action("stop")?.addEventListener("click", () => this.#toggle());
    this.#action("carry")?.addEventListener("click", ({ currentTarget: button }) => {
      this.#subscription.setCarry(!this.#subscription.carry);
      button.ariaPressed = this.#subscription.carry;
    });
  }

  /** Connect, unless the reader has stopped this lane. */
  resume() {
    if (this.#wanted) this.#subscription.start();
  }

  /** Let go of the connection for as long as nobody looks. */
  suspend() {
    this.#subscription.stop();
  }

  /** Show what changes by itself: the age, and the seconds until the next attempt. */
  tick() {
    this.#write("since", age(serverNow() - this.#changedAt, { tenths: !reducedMotion.matches }));
    const seconds = Math.ceil((this.#retryAt - Date.now()) / 1000);
    this.#write("countdown", this.#retryAt ? ` in ${Math.max(1, seconds)} s` : "");
  }

  #toggle() {
    this.#wanted = !this.#wanted;
    if (this.#wanted) this.resume();
    else this.suspend();
    const button = this.#action("stop");
    const label = this.#wanted ? "Stop" : "Start";
    button.ariaLabel = button.ariaLabel.replace(button.textContent, label);
    button.textContent = label;
  }

  #show(reading) {
    this.#changedAt = reading.changed_at * 1000;
    const text = headline(reading.value);
    const value = this.#write("value", text);
    value.dataset.size = text.length > LONG ? "small" : text.length > SHORT ? "medium" : "large";
    value.tabIndex = text.length > LONG ? 0 : -1; // what may scroll must be reached by keyboard
    // Once tall, a lane stays tall, so that the page does not jump with every other line.
    if (text.length > LONG) this.#element.dataset.tall = "";
    this.#write("details", details(reading.value));
    this.#write("sequence", String(sequence(reading.cursor)));
    const changedAt = new Date(this.#changedAt);
    this.#write("changed-at", localTime(changedAt)).dateTime = changedAt.toISOString();
    this.#element.dataset.cursor = reading.cursor;
    this.tick();
  }

  #showNews(reading) {
    this.#show(reading);
    if (!reducedMotion.matches) {
      this.#field("value").animate([{ color: "var(--transport)" }, {}], 700);
    }
  }

  #showState(state, { until = null }) {
    this.#element.dataset.state = state;
    this.#write("state-word", state);
    this.#element.querySelector("use").setAttribute("href", `#icon-${state}`);
    this.#retryAt = state === "retrying" ? until : null;
    this.tick();
  }

  /** Only what has changed is written, or a screen reader would hear it again. */
  #write(name, text) {
    const field = this.#field(name);
    if (field.textContent !== text) field.textContent = text;
    return field;
  }

  #field(name) {
    return this.#element.querySelector(`[data-field="${name}"]`);
  }

  #action(name) {
    return this.#element.querySelector(`[data-action="${name}"]`);
  }
}
