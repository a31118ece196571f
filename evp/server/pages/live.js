// The event stream: opened, read, watched over, opened again.

import { Failed, ask } from "./session.js";

const SILENT_MS = 7000; // The server says something every two seconds.
const BRIEF_MS = 1000;
const FIRST_PAUSE_MS = 500;
const PAUSE_MS_MAX = 10_000;
const HIDDEN_MS = 10_000; // A browser has few connections for a host: pages in the back let go.
const LINE_CHARS_MAX = 4_000_000;

/**
 * Watch until `stop` is called.
 *
 * `on.history(points)` and `on.snapshot(snapshot)` get what comes; `on.state(name, detail)` is told
 * "connecting", "out", and what `stateOf` returns; "away" with the moment, ms, of the last answer.
 */
export function watch(on) {
  let current = new AbortController();
  let stopped = false;
  let heardAt = performance.now();
  let wake = () => {};
  let hiding = 0;

  async function run() {
    let failures = 0;
    on.state("connecting");
    while (!stopped) {
      await visible();
      if (stopped) return;
      const startedAt = performance.now();
      try {
        await readOnce();
        failures = performance.now() - startedAt > BRIEF_MS ? 0 : failures + 1;
      } catch (error) {
        if (stopped) return;
        if (document.hidden) continue;
        if (error instanceof Failed && (error.status === 401 || error.status === 403)) {
          return on.state("out", error);
        }
        failures += 1;
        on.state(stateOf(error), heardAt, error);
      }
      if (failures > 0) await pause(Math.min(FIRST_PAUSE_MS * 2 ** (failures - 1), PAUSE_MS_MAX));
    }
  }

  async function readOnce() {
    current = new AbortController();
    let timer = setTimeout(() => current.abort(), SILENT_MS);
    try {
      const options = { headers: { accept: "text/event-stream" }, signal: current.signal };
      const answer = await ask("/live", options);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      const parse = parser(deliver);
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        clearTimeout(timer);
        timer = setTimeout(() => current.abort(), SILENT_MS);
        heardAt = performance.now();
        parse(value);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  function deliver(event, data) {
    if (event === "history") on.history(JSON.parse(data));
    if (event === "snapshot") on.snapshot(JSON.parse(data));
  }

  function pause(longestMs) {
    const ms = longestMs * (0.5 + Math.random() / 2);
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  async function visible() {
    if (!document.hidden) return;
    while (document.hidden && !stopped) {
      await new Promise((resolve) => {
        wake = resolve;
      });
    }
    on.state("connecting");
  }

  function onVisibility() {
    clearTimeout(hiding);
    if (document.hidden) hiding = setTimeout(() => current.abort(), HIDDEN_MS);
    else wake();
  }

  document.addEventListener("visibilitychange", onVisibility);
  run();
  return function stop() {
    stopped = true;
    document.removeEventListener("visibilitychange", onVisibility);
    clearTimeout(hiding);
    current.abort();
    wake();
  };
}

/** Name the state after a failure. Watching needs no store, but renewing the session does. */
export const stateOf = (error) => ({ server_busy: "busy", store_unavailable: "unrenewed" })[error.code] ?? "away";

/** Return a function that takes pieces of an event stream and calls `deliver(event, data)`. */
export function parser(deliver) {
  let rest = "";
  let event = "";
  let data = "";
  return (piece) => {
    rest += piece;
    if (rest.length > LINE_CHARS_MAX) throw new Failed(0, "no_stream", "This is no event stream.");
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("event: ")) event = line.slice(7);
      else if (line.startsWith("data: ")) data += line.slice(6);
      else if (line === "" && data !== "") {
        deliver(event, data);
        event = data = "";
      }
    }
  };
}
