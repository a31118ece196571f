// Small ways to change the page. Texts go in as text: nothing here takes markup.

export const $ = (id) => document.getElementById(id);

/** Make an element: `make("td", { class: "n" }, "12")`. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Set a text, and leave alone what says it already: nothing is drawn or read out anew. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function show(element, visible) {
  element.toggleAttribute("hidden", !visible);
}

export function mark(element, name, value) {
  if (element.dataset[name] !== value) element.dataset[name] = value;
}

/** Show rows of texts in a table body, reusing what is there. A cell is a text or {text, level}. */
export function fillTable(body, rows) {
  const head = body.parentElement.tHead.rows[0].cells;
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, at) => {
    const row = body.rows[at] ?? body.appendChild(newRow(head));
    cells.forEach((cell, column) => {
      const { text, level = "" } = typeof cell === "string" ? { text: cell } : cell;
      say(row.cells[column], text);
      mark(row.cells[column], "level", level);
    });
  });
  show(body.parentElement, rows.length > 0);
}

function newRow(head) {
  const row = make("tr");
  [...head].forEach((column, at) => {
    const attributes = { class: column.className };
    row.append(at === 0 ? make("th", { ...attributes, scope: "row" }) : make("td", attributes));
  });
  return row;
}

/** Show names with values in a `dl`; items are [name, value, note, level]. */
export function fillFacts(list, items) {
  while (list.children.length > items.length) list.lastElementChild.remove();
  items.forEach(([name, value, note = "", level = ""], at) => {
    const item =
      list.children[at] ??
      list.appendChild(make("div", {}, make("dt"), make("dd", { class: "value" }), make("dd", { class: "note" })));
    const [dt, dd, small] = item.children;
    say(dt, name);
    say(dd, value);
    say(small, note);
    show(small, note !== "");
    mark(item, "level", level);
  });
}
