// The page: log in, watch, log out.

import { Board } from "./board.js";
import { $, mark, say, show } from "./dom.js";
import { count } from "./format.js";
import { History } from "./history.js";
import { Letters } from "./letters.js";
import { stateOf, watch } from "./live.js";
import { logIn, logOut, whoAmI } from "./session.js";

const TRY_AGAIN_MS = 2000;
const STATES = {
  connecting: "Connecting",
  live: "Live",
  "log-away": "Log away",
  "store-away": "Store away",
  away: "No answer, trying again",
  busy: "Too many watch, trying again",
  unrenewed: "Store away: the session can't be renewed, trying again",
  out: "Logged out",
};

const board = new Board();
const letters = new Letters();
const past = new History();
let stop = null;
let heardAt = 0;

function setState(name, since) {
  mark($("state"), "state", name);
  say($("state-text"), STATES[name]);
  heardAt = name === "away" ? since : 0; // 0 where an answer has come.
  if (!heardAt) say($("state-since"), "");
  mark($("board"), "stale", ["away", "busy", "unrenewed"].includes(name) ? "yes" : "no");
}

// Apart from the state itself, which is read out: a number that grows is not.
setInterval(() => {
  if (heardAt) say($("state-since"), ` since ${count((performance.now() - heardAt) / 1000)} s`);
}, 1000);

function begin(me) {
  show($("login"), false);
  show($("board"), true);
  show($("who"), true);
  say($("who-name"), me.name);
  letters.mayReplay = me.scopes.includes("admin");
  letters.begin();
  stop = watch({
    history: (points) => board.remember(points),
    snapshot(snapshot) {
      setState(snapshot.log_error ? "log-away" : snapshot.stats.store_error ? "store-away" : "live");
      board.show(snapshot);
      letters.notice(snapshot.stats?.totals?.dead ?? null);
    },
    state(name, detail, error) {
      if (name === "out") end(error.code === "forbidden" ? error.message : "Your session has ended.");
      else setState(name, detail);
    },
  });
  past.refresh();
}

function end(why = "") {
  if (stop) stop();
  stop = null;
  past.stop();
  letters.end();
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  board.points = [];
  // The next person may read none of it.
  for (const kept of document.querySelectorAll("#board :is(tbody, dl), dialog :is(dl, ul, pre)")) kept.replaceChildren();
  setState("out");
  show($("board"), false);
  show($("who"), false);
  show($("login"), true);
  say($("login-why"), why);
  show($("login-why"), why !== "");
  $("login-name").focus();
}

$("login").querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  say($("login-error"), "");
  $("login-button").disabled = true;
  try {
    const me = await logIn($("login-name").value, $("login-password").value);
    $("login-password").value = "";
    begin(me);
    $("main").focus({ preventScroll: true });
    scrollTo(0, 0);
  } catch (error) {
    say($("login-error"), told(error));
    $("login-password").select();
  } finally {
    $("login-button").disabled = false;
  }
});

function told(error) {
  if (error.code === "invalid_credentials") return "User name or password is wrong.";
  if (error.code === "too_many_logins") return `Too many tries; try again in ${error.retryAfterS ?? 60} s.`;
  return error.message;
}

$("logout").addEventListener("click", async () => {
  try {
    await logOut();
  } catch (error) {
    // evp has the browser forget its session in any case; nobody else can.
    const forgotten = `This browser is logged out. The session itself could not be ended (${error.message}); unused, it ends in a week.`;
    return end(error.code && error.status ? forgotten : `${error.message} The session goes on; log in and out again later.`);
  }
  end();
});

async function start() {
  try {
    begin(await whoAmI());
  } catch (error) {
    if (error.status === 401 || error.status === 403) return end();
    setState(stateOf(error), heardAt || performance.now());
    setTimeout(start, TRY_AGAIN_MS);
  }
}

start();
