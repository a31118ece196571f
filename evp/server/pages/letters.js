// Dead letters: what died alike, a look at one, and their replay after a question.

import { $, make, say, show } from "./dom.js";
import { bytes, count, fullTime, printable, when } from "./format.js";
import { askJson, postJson } from "./session.js";

const LETTERS_SHOWN = 20;
const AGAIN_MS = 2000;
const COST_FACTOR = 10; // A store that takes long is asked less often.
const BODY_CHARS_MAX = 100_000;

export class Letters {
  constructor() {
    this.open = false; // Whether somebody is logged in who may see letters.
    this.mayReplay = false;
    this.chosen = null; // The group whose letters are shown.
    this.dead = null;
    this.drawn = {};
    this.lookAgainAt = 0;
    for (const dialog of [$("letter"), $("replay")]) {
      dialog.addEventListener("click", (event) => {
        if (event.target.closest("[data-close]")) dialog.close();
      });
    }
    $("replay").addEventListener("close", () => this.#endReplay());
    $("replay-go").addEventListener("click", () => this.#deliver());
  }

  begin() {
    this.open = true;
    this.refresh();
  }

  /** Forget all letters: nothing is asked for, and no answer is drawn any more. */
  end() {
    this.open = false;
    this.chosen = this.dead = null;
    this.drawn = {};
  }

  /** Look anew where the number of dead letters is another one, every few seconds at most. */
  notice(dead) {
    if (dead === null || dead === this.dead) return;
    if (performance.now() < this.lookAgainAt) return;
    this.dead = dead;
    this.refresh();
  }

  async refresh() {
    if (!this.open) return;
    const startedAt = performance.now();
    this.lookAgainAt = Infinity;
    try {
      const groups = await askJson("/dead-letters/top");
      if (!this.open) return;
      this.#drawGroups(groups);
      await this.#refreshList();
      say($("dead-error"), "");
    } catch (error) {
      this.dead = null; // A snapshot to come tries again.
      say($("dead-error"), error.message);
    }
    const now = performance.now();
    this.lookAgainAt = now + Math.max(AGAIN_MS, COST_FACTOR * (now - startedAt));
  }

  async #refreshList() {
    const chosen = this.chosen;
    show($("dead-list"), chosen !== null);
    if (chosen === null) return;
    const query = new URLSearchParams({ error: chosen.key, limit: LETTERS_SHOWN });
    const found = await askJson(`/dead-letters?${query}`);
    if (chosen === this.chosen && this.open) this.#drawList(found);
  }

  #drawGroups(all) {
    const { groups, more, counted } = all;
    if (!this.#isNew("groups", [groups, more, this.mayReplay, this.chosen])) return;
    replaceRows($("dead-groups"), groups.map((group) => this.#groupRow(group, all)));
    show($("dead-none"), groups.length === 0 || more);
    say($("dead-none"), more ? `There are more: counted are the newest ${count(counted)}.` : "There are none.");
  }

  #groupRow(group, all) {
    const open = this.chosen?.key === group.key;
    const name = `${group.reason}, ${group.key}`;
    const look = button(open ? "Hide" : "Show", `look ${group.key}`, () => this.#choose(open ? null : group, all));
    look.setAttribute("aria-expanded", open);
    look.setAttribute("aria-label", `${open ? "Hide" : "Show"} letters: ${name}`);
    const replay = button("Replay…", `replay ${group.key}`, () => this.#askReplay({ error: group.key }, `letters with reason ${group.reason} that died alike`));
    replay.setAttribute("aria-label", `Replay letters: ${name}`);
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, make("code", {}, group.reason)),
      make("td", { class: "n" }, count(group.letters)),
      make("td", { class: "n" }, when(group.last_at)),
      make("td", { class: "foreign wide" }, make("div", { class: "clamp" }, printable(group.pattern))),
      make("td", { class: "wide" }, group.mend),
      make("td", { class: "actions" }, look, ...(this.mayReplay ? [" ", replay] : [])),
    );
  }

  /** Open or close the list of a group; that shows at once, its letters once they are there. */
  async #choose(group, all) {
    this.chosen = group;
    this.#drawGroups(all);
    if (group !== null) {
      say($("dead-list-title"), `Newest of ${group.reason}`);
      say($("dead-list-more"), "Asking for them");
      show($("dead-list-more"), true);
      replaceRows($("dead-letters"), []);
      this.drawn.list = null;
    }
    try {
      await this.#refreshList();
    } catch (error) {
      say($("dead-list-more"), error.message);
    }
  }

  #drawList({ letters, counted, more }) {
    show($("dead-list-more"), counted > letters.length || counted === 0);
    say($("dead-list-more"), letters.length ? `and ${more ? "more than " : ""}${count(counted - letters.length)} older ones: evp dlq list shows them` : "There are none any more.");
    if (!this.#isNew("list", letters)) return;
    replaceRows(
      $("dead-letters"),
      letters.map((one) => {
        const look = button("Look", `letter ${one.id}`, () => this.#look(one.id));
        look.setAttribute("aria-label", `Look at letter ${one.id}`);
        return make(
          "tr",
          {},
          make("th", { scope: "row", class: "when" }, when(one.last_at)),
          make("td", { class: "foreign" }, printable(one.type ?? `entry ${one.entry}`)),
          make("td", { class: "foreign wide" }, make("div", { class: "clamp" }, printable(one.detail))),
          make("td", { class: "n" }, count(one.attempts)),
          make("td", { class: "actions" }, look),
        );
      }),
    );
  }

  async #look(id) {
    try {
      const shown = await askJson(`/dead-letters/${encodeURIComponent(id)}`);
      if (!this.open) return;
      this.#drawLetter(shown);
      $("letter").showModal();
    } catch (error) {
      say($("dead-error"), error.message);
      this.refresh();
    }
  }

  #drawLetter({ letter, what_to_do: mend, whole, event, payload_hex: hex }) {
    drawFacts($("letter-facts"), {
      reason: letter.reason,
      "what to do": mend,
      "what was said": letter.detail,
      error: letter.error,
      type: letter.type,
      source: letter.source,
      "last refused": fullTime(letter.last_at),
    });
    drawFacts($("letter-more"), {
      id: letter.id,
      "event id": letter.event_id,
      stream: letter.stream,
      group: letter.group,
      entry: letter.entry,
      attempts: count(letter.attempts),
      "first refused": fullTime(letter.first_at),
      size: bytes(letter.payload_bytes),
    });
    say($("letter-body"), body(letter, whole, event, hex));
    show($("letter-replay"), this.mayReplay);
    $("letter-replay").onclick = () => {
      $("letter").close();
      this.#askReplay({ ids: [letter.id] }, `letter ${letter.id}`);
    };
  }

  async #askReplay(filters, what) {
    this.asked = filters;
    say($("replay-what"), `Counting ${what}`);
    for (const id of ["replay-outcome", "replay-error", "replay-rows"]) say($(id), "");
    show($("replay-go"), false);
    $("replay").showModal();
    try {
      const { until, more, account } = await postJson("/dead-letters/replay", { ...filters, dry_run: true });
      if (!this.open) return;
      this.asked = { ...filters, until };
      const number = `${more ? "more than " : ""}${count(account.selected)}`;
      say(
        $("replay-what"),
        account.selected
          ? `${number} to deliver once more: ${what}. Do it after the cause was mended; what is refused again stays, and doing it twice does no harm.`
          : `There is nothing to deliver: ${what}.`,
      );
      listRows(Object.entries(account.by_reason).map(([reason, letters]) => `${count(letters)} ${reason}`));
      say($("replay-go"), `Replay ${number}`);
      show($("replay-go"), account.selected > 0);
      if (account.selected > 0) $("replay-go").focus();
    } catch (error) {
      say($("replay-error"), error.message);
    }
  }

  /** Deliver letters, a request of some seconds after the other, until none is left or it is closed. */
  async #deliver() {
    const asked = this.asked;
    const sum = { done: 0, stored: 0, duplicate: 0, refused: {}, examples: [] };
    show($("replay-go"), false);
    say($("replay-outcome"), "Delivering");
    try {
      let next = { after: null, ...asked };
      for (let finished = false; !finished && this.asked === asked; ) {
        const { account, until, after } = await postJson("/dead-letters/replay", { ...next, dry_run: false });
        add(sum, account);
        finished = account.finished;
        this.#tellOutcome(sum, finished);
        const moved = account.done > 0 || until !== next.until || after !== next.after;
        if (!finished && !moved) throw new Error("The store is too slow now: a request ended before the first letter.");
        next = { ...next, until, after };
      }
    } catch (error) {
      say($("replay-error"), `${error.message} What was delivered so far stays delivered; ask again for the rest.`);
    }
    this.refresh();
  }

  #tellOutcome({ done, stored, duplicate, refused, examples }, finished) {
    const stay = Object.values(refused).reduce((one, other) => one + other, 0);
    const before = duplicate ? `, ${count(duplicate)} of them stored before` : "";
    const told = `${count(done)} delivered${before}, ${stay ? `${count(stay)} refused again and kept` : "none refused"}.`;
    say($("replay-outcome"), finished ? told : `${told} Going on`);
    const rows = Object.entries(refused).map(([reason, letters]) => `${count(letters)} ${reason}`);
    listRows([...rows, ...examples.map((one) => printable(`${one.id}: ${one.detail}`))]);
    return stored;
  }

  #endReplay() {
    this.asked = null;
    this.refresh();
  }

  /** Tell whether something differs from what was drawn under this name last. */
  #isNew(name, value) {
    const text = JSON.stringify(value);
    const same = this.drawn[name] === text;
    this.drawn[name] = text;
    return !same;
  }
}

function drawFacts(list, facts) {
  const known = Object.entries(facts).filter(([, value]) => value != null && value !== "");
  list.replaceChildren(
    ...known.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", { class: "foreign" }, printable(value)))),
  );
}

function add(sum, account) {
  sum.done += account.done;
  sum.stored += account.stored;
  sum.duplicate += account.duplicate;
  for (const [reason, letters] of Object.entries(account.refused)) {
    sum.refused[reason] = (sum.refused[reason] ?? 0) + letters;
  }
  if (sum.examples.length === 0) sum.examples = account.examples.slice(0, 5);
}

function listRows(texts) {
  $("replay-rows").replaceChildren(...texts.map((text) => make("li", {}, text)));
}

/** Replace rows; a button that had the focus has it again. */
function replaceRows(tbody, rows) {
  const focused = tbody.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  tbody.replaceChildren(...rows);
  show(tbody.parentElement, rows.length > 0);
  if (focused) [...tbody.querySelectorAll("button")].find((one) => one.dataset.key === focused)?.focus();
}

function button(text, key, onClick) {
  const made = make("button", { type: "button", "data-key": key }, text);
  made.addEventListener("click", onClick);
  return made;
}

function body(letter, whole, event, hex) {
  let text;
  if (event !== null) text = printable(JSON.stringify(event, null, 2));
  else if (hex !== null) text = printable(new TextDecoder().decode(Uint8Array.from(hex.match(/../g) ?? [], (one) => parseInt(one, 16))));
  else if (letter.purged_at) return "It was given up for good: nothing of it is there any more.";
  else return `It has ${bytes(letter.payload_bytes)}, too much to show here: evp dlq show ${letter.id} --raw`;
  if (text.length > BODY_CHARS_MAX) return `${text.slice(0, BODY_CHARS_MAX)}\n… more: evp dlq show ${letter.id} --raw`;
  return whole ? text : `${text}\n… ${bytes(letter.payload_bytes)} were received, not all is shown`;
}
