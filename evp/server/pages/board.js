// What the newest snapshot says, drawn: headline, balance, charts, engines, groups, workers.

import { Chart } from "./chart.js";
import { $, fillFacts, fillTable, mark, say, show } from "./dom.js";
import { bytes, clockTime, compact, count, millis, printable, rate, seconds } from "./format.js";

const HISTORY_MS = 300_000;
const POINTS_MAX = 400;
const GAP_MS = 8000; // A look at a store that is away takes some seconds.
const KEEPS_UP_S = 3;
const OLD_SUM_S = 5;
const POINT = ["at", "accepted", "stored", "waiting", "oldest", "p50", "p99"];

/** Ages below the live charts: `now`, `1 min`, `2.5 min`. */
const ago = (ms, to) => (to - ms < 1000 ? "now" : `−${Math.round((to - ms) / 6000) / 10} min`);
const exact = (ms) => new Date(ms).toLocaleTimeString("en-GB");

export class Board {
  constructor() {
    this.points = [];
    const chart = (id, options) => new Chart($(id), { label: ago, moment: exact, ticks: 5, ...options });
    this.rates = chart("chart-rates", { title: "Throughput", unit: "events a second", format: compact });
    this.waiting = chart("chart-waiting", { title: "Lag", unit: "events that wait in the log", format: compact });
    this.latency = chart("chart-latency", { title: "Time until stored", unit: "from accepted to stored", format: millis });
    this.types = new Chart($("chart-types"), {
      title: "By type",
      unit: "stored a minute by their own time; the last is not over",
      format: compact,
      ticks: 7,
      label: clockTime,
    });
    say($("empty-curl"), curl());
  }

  /** Take the history that a stream begins with; what is known already stays. */
  remember(points) {
    const known = new Set(this.points.map((one) => one.at));
    const told = points.map((values) => Object.fromEntries(POINT.map((name, at) => [name, values[at]])));
    this.points.push(...told.filter((one) => !known.has(one.at)));
    this.points.sort((one, other) => one.at - other.at);
  }

  show(snapshot) {
    const { stats } = snapshot;
    if (stats) {
      const own = stats.log.groups.find((group) => group.name === stats.group);
      if (this.points.at(-1)?.at !== snapshot.at_ms) this.points.push(pointOf(snapshot, own));
      say($("stream"), printable(stats.stream));
      fillFacts($("tiles"), tiles(stats, own, snapshot.at_ms));
      showBalance(stats, snapshot.at_ms);
      showEngines(stats, snapshot.partitions_more);
      showGroups(stats, snapshot);
      showWorkers(stats, snapshot.workers_more);
      show($("empty"), stats.log.events_accepted === 0 && !(stats.totals?.stored > 0));
    }
    showNotices(snapshot);
    this.#draw(snapshot.at_ms);
    if (snapshot.types) this.#drawTypes(snapshot.types);
  }

  #draw(now) {
    const from = now - HISTORY_MS;
    this.points = this.points.filter((one) => one.at > from).slice(-POINTS_MAX);
    const data = (...series) => ({
      from,
      to: now,
      gap: GAP_MS,
      xs: this.points.map((one) => one.at),
      series: series.map(([name, key]) => ({ name, values: this.points.map((one) => one[key]) })),
    });
    this.rates.draw(data(["accepted", "accepted"], ["stored", "stored"]));
    this.waiting.draw(data(["waiting", "waiting"]));
    this.latency.draw(data(["p50", "p50"], ["p99", "p99"]));
  }

  #drawTypes({ starts_ms: xs, events }) {
    const series = Object.entries(events).map(([name, values]) => ({ name: printable(name), values }));
    this.types.draw({ from: xs[0], to: xs.at(-1), gap: Infinity, xs: series.length ? xs : [], series });
  }
}

function pointOf({ at_ms: at, stats }, own) {
  return {
    at,
    accepted: stats.rates.accepted_per_s,
    stored: stats.store_error ? null : stats.rates.stored_per_s,
    waiting: own ? own.pending_events + own.lag_events : null,
    oldest: own ? own.lag_s : null,
    p50: stats.latency_ms?.p50 ?? null,
    p99: stats.latency_ms?.p99 ?? null,
  };
}

function tiles(stats, own, now) {
  const { rates, totals, latency_ms: latency, log } = stats;
  const away = Boolean(stats.store_error);
  const dead = totals?.dead ?? null;
  const waiting = own ? own.pending_events + own.lag_events : null;
  return [
    ["Accepted", `${rate(rates.accepted_per_s)}/s`, `${count(log.events_accepted)} in all`],
    ["Stored", away ? "–" : `${rate(rates.stored_per_s)}/s`, `${count(totals?.stored)} in all${ageOf(stats.balance, now)}`],
    own ? ["Waiting", count(waiting), waiting ? drain(own) : "nothing waits"] : noGroup(stats),
    ["Oldest waiting", waiting ? seconds(own.lag_s) : "–", waiting ? "since accepted" : ""],
    ["Until stored", latency ? millis(latency.p50) : "–", latency ? `p99 ${millis(latency.p99)}` : "nothing was stored lately"],
    ["Duplicates", count(totals?.duplicate), away ? "" : `${rate(rates.duplicate_per_s)}/s`],
    ["Dead letters", count(dead), away ? "" : `${rate(rates.dead_per_s)}/s`, dead ? "warn" : ""],
  ];
}

/** All that the log has waits for a group that is not there; how much that is the balance knows. */
const noGroup = ({ balance }) => ["Waiting", count(balance?.in_log), "no group yet: start evp work", balance?.in_log ? "warn" : ""];

/** A queue that is short does not get shorter where as much comes as goes. */
const keepsUp = (group) => group.drain_s !== 0 && group.lag_s < KEEPS_UP_S;

function drain(group) {
  if (group.stuck) return "stuck";
  if (keepsUp(group)) return "workers keep up";
  return group.drain_s == null ? "does not get less" : `done in ${seconds(group.drain_s)}`;
}

function drainCell(group) {
  if (group.stuck) return { text: "stuck: evp groups describe", level: "bad" };
  if (keepsUp(group)) return "keeps up";
  return group.drain_s == null ? { text: "does not get less", level: "warn" } : seconds(group.drain_s);
}

function showBalance({ balance }, now) {
  if (!balance) return;
  const parts = [
    [balance.stored - balance.external, "stored"],
    [balance.duplicate, "duplicate"],
    [balance.dead, "dead"],
    [balance.in_log, "in the log"],
  ];
  if (balance.acknowledged) parts.push([balance.acknowledged, "lost as acknowledged"]);
  const sum = parts.reduce((before, [events]) => before + events, 0);
  // What was accepted is recorded every few seconds, so under load it is behind the rest.
  const sign = sum === balance.accepted ? "=" : sum > balance.accepted ? "≤" : "≠";
  const told = parts.map(([events, name]) => `${count(events)} ${name}`);
  say($("balance-sum"), `${count(balance.accepted)} accepted ${sign} ${told.join(" + ")}`);
  const [level, text] = verdict(balance, sign);
  mark($("balance"), "level", level);
  say($("balance-mark"), text + ageOf(balance, now));
}

/** How old sums are, where that is worth a word: where there is much, they are made more rarely. */
function ageOf(balance, now) {
  const age = balance ? (now - Date.parse(balance.at)) / 1000 : 0;
  return age > OLD_SUM_S ? `, ${seconds(age)} ago` : "";
}

function verdict({ unaccounted, unaccounted_max: most, unknown }, sign) {
  if (unaccounted) return ["bad", `✗ ${count(unaccounted)} unaccounted for: run evp verify`];
  if (most) return ["warn", `? ${count(unknown)} of unknown outcome, up to ${count(most)} may be missing: evp verify tells`];
  return ["good", sign === "=" ? "✓ It adds up" : "✓ Nothing is missing"];
}

/** Several partitions, on how many servers; nothing where there is one. */
function partitionFacts(partitions, more, servers) {
  if (partitions.length === 0) return [];
  const away = partitions.filter((one) => one.away).length;
  const where = servers.length ? `on ${count(servers.length)} servers; memory of the fullest` : "on one server";
  return [["Partitions", count(partitions.length + more), away ? `${count(away)} away` : where, away ? "bad" : ""]];
}

function showEngines({ log, log_state: state, log_servers: servers, partitions, store_state: store, store_error: error }, more) {
  say($("log-version"), printable(state.version));
  const share = state.mark_bytes ? state.used_bytes / state.mark_bytes : null;
  fillFacts($("log-facts"), [
    ["Durability", state.durability || "not durable", state.durability ? "" : printable(state.detail), state.durability ? "" : "bad"],
    ["Memory", bytes(state.used_bytes), state.mark_bytes ? `of ${bytes(state.mark_bytes)}, then evp refuses` : "no mark is known", share > 0.8 ? "warn" : ""],
    ["Stream", `${count(log.length)} frames`, bytes(log.size_bytes)],
    ...partitionFacts(partitions, more, servers),
  ]);
  const bar = $("log-bar");
  show(bar, share !== null);
  if (share !== null) {
    const used = Math.min(100, Math.round(100 * share));
    bar.setAttribute("aria-valuenow", used);
    bar.firstElementChild.style.width = `${used}%`;
    mark(bar, "level", share > 0.8 ? "warn" : "good");
  }
  say($("store-version"), printable(store?.version ?? ""));
  fillFacts($("store-facts"), [
    ["State", error ? "away" : "there", error ? printable(error) : "", error ? "bad" : ""],
    ["Answers within", error ? "–" : millis(store?.answer_ms)],
  ]);
}

function showGroups({ log, group: own }, { consumers, groups_more: more }) {
  const rows = log.groups.map((group) => [
    printable(group.name) + (group.name === own ? " (writes)" : ""),
    count(group.pending_events),
    count(group.lag_events),
    seconds(group.lag_s),
    drainCell(group),
    count(consumers[group.name]),
  ]);
  fillTable($("groups"), rows);
  show($("groups-none"), rows.length === 0);
  show($("groups-more"), more > 0);
  say($("groups-more"), `and ${count(more)} more`);
}

function showWorkers({ workers, store_error: error }, more) {
  if (error) return; // What they told last stays.
  const rows = workers.map((one) => [
    printable(one.name),
    printable(one.group),
    rate(one.stored_per_s),
    rate(one.batch_events),
    millis(one.write_ms),
    bytes(one.rss_bytes),
    { text: `${seconds(one.seen_s)} ago`, level: one.silent ? "warn" : "" },
  ]);
  fillTable($("workers"), rows);
  show($("workers-none"), rows.length === 0);
  show($("workers-more"), more > 0);
  say($("workers-more"), `and ${count(more)} more`);
}

function awayByReason(partitions) {
  const found = new Map();
  for (const { partition, away } of partitions) {
    if (away) found.set(away, [...(found.get(away) ?? []), partition]);
  }
  return found;
}

function showNotices({ log_error: log, stats }) {
  const store = stats?.store_error;
  const told = [];
  if (log) told.push(["bad", `The log is away, so nothing is accepted: clients are told to send again. ${printable(log)}`]);
  for (const [why, numbers] of awayByReason(stats?.partitions ?? [])) {
    told.push(["bad", `Partition ${numbers.join(", ")} of the log is away; servers use the others. ${printable(why)}`]);
  }
  if (store) told.push(["warn", `The store is away. Events are accepted and wait in the log; nothing is lost. ${printable(store)}`]);
  const box = $("notices");
  while (box.children.length > told.length) box.lastElementChild.remove();
  told.forEach(([level, text], at) => {
    const line = box.children[at] ?? box.appendChild(document.createElement("p"));
    line.className = "notice";
    mark(line, "level", level);
    say(line, text);
  });
  mark($("board"), "log", log ? "away" : "there");
}

const curl = () =>
  `curl -X POST ${location.origin}/events -H 'content-type: application/json' \\\n` +
  `  -H "x-api-key: $EVP_KEY" -d '{"type": "hello", "data": {"name": "world"}}'`;
