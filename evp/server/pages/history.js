// What was stored in the last hour, day, week or month, from the sums that evp keeps.

import { Chart, SERIES_MAX } from "./chart.js";
import { $, fillFacts, fillTable, make, say, show } from "./dom.js";
import { clockTime, compact, count, dayTime, millis, percent, printable } from "./format.js";
import { askJson } from "./session.js";

const RANGES = { "1 h": "now-1h", "24 h": "now-24h", "7 d": "now-7d", "30 d": "now-30d" };
const AGAIN_MS = { "1 h": 15_000, "24 h": 60_000, "7 d": 300_000, "30 d": 300_000 };
const DAY_MS = 86_400_000;
const TYPES_SHOWN = 20;

export class History {
  constructor() {
    this.range = "1 h";
    this.timer = 0;
    this.turn = 0; // Of the newest question; an answer to an older one is of no interest.
    this.chart = new Chart($("chart-past"), { title: "Stored events", format: compact, label: momentOf, moment: whole });
    for (const name of Object.keys(RANGES)) {
      const input = make("input", { type: "radio", name: "range", value: name, id: `range-${name}` });
      input.checked = name === this.range;
      input.addEventListener("change", () => {
        this.range = name;
        this.refresh();
      });
      $("ranges").append(make("label", {}, input, make("span", {}, name)));
    }
  }

  stop() {
    clearTimeout(this.timer);
    this.turn += 1;
  }

  /** Ask, draw, and ask again after a while. */
  async refresh() {
    this.stop();
    const { range, turn } = this;
    try {
      const query = new URLSearchParams({ from: RANGES[range], group_by: "type" });
      const found = await askJson(`/analytics/metrics?${query}`);
      if (turn !== this.turn) return;
      this.#draw(found);
      say($("past-error"), "");
    } catch (error) {
      if (turn !== this.turn) return;
      say($("past-error"), error.message);
    }
    this.timer = setTimeout(() => (document.hidden ? this.#later(turn) : this.refresh()), AGAIN_MS[range]);
  }

  #later(turn) {
    document.addEventListener("visibilitychange", () => turn === this.turn && this.refresh(), { once: true });
  }

  #draw(found) {
    const names = Object.keys(found.by_type).slice(0, SERIES_MAX - 1);
    const xs = found.series.map((step) => Date.parse(step.start));
    const series = names.map((name) => ({
      name: printable(name),
      values: found.series.map((step) => step.groups?.[name] ?? 0),
    }));
    const rest = found.series.map((step) => step.events - names.reduce((sum, name) => sum + (step.groups?.[name] ?? 0), 0));
    if (rest.some((events) => events > 0)) series.push({ name: "all others", values: rest });
    this.chart.unit = `each ${found.interval} by their own time; the last is not over`;
    say(this.chart.figure.querySelector("figcaption .dim"), this.chart.unit);
    const drawn = found.events > 0 ? xs : [];
    this.chart.draw({ from: xs[0], to: xs.at(-1), gap: Infinity, xs: drawn, series: drawn.length ? series : [] });
    fillFacts($("past-tiles"), tiles(found));
    const rows = Object.entries(found.by_type).slice(0, TYPES_SHOWN);
    fillTable($("past-types"), rows.map(([name, events]) => [printable(name), count(events), percent(events / found.events)]));
    show($("past-none"), found.events === 0);
  }
}

function tiles({ events, accepted }) {
  const latency = accepted.latency_ms;
  return [
    ["Stored", count(events), "whose own time lies in the range"],
    ["Duplicates", count(accepted.duplicates), "of what was accepted then"],
    ["Dead letters", count(accepted.dead_letters), "of what was accepted then", accepted.dead_letters ? "warn" : ""],
    ["Missing", count(accepted.missing), "lost by the log", accepted.missing ? "bad" : ""],
    ["Until stored, p50", millis(latency?.p50), latency ? `p99 ${millis(latency.p99)}` : ""],
  ];
}

const whole = (ms) => `${dayTime(ms)}, ${clockTime(ms)}`;

function momentOf(ms, to) {
  return to !== undefined && Date.now() - ms > 2 * DAY_MS ? dayTime(ms) : clockTime(ms);
}
