// Sorting. Every column head of a sortable table is a button, so that it works by keyboard and is announced as one.
"use strict";

// What a cell sorts by: its number where it has one (the text shows rounded digits), else its words. null: nothing.
function sortValue(cell) {
  if (cell.dataset.value !== undefined) return parseFloat(cell.dataset.value);
  const text = cell.textContent.trim();
  return cell.closest("table").dataset.sort === "words" && text !== "" && text !== "–" ? text : null;
}

// Cells without a value stay at the end either way.
function compareValues(a, b, up) {
  const missing = value => value === null || Number.isNaN(value);
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  const order = typeof a === "string" ? a.localeCompare(b) : a - b;
  return up ? order : -order;
}

function sortBy(button) {
  const head = button.closest("th"), table = head.closest("table");
  const before = head.getAttribute("aria-sort");
  // The first click shows the best first: that is what one looks for in a table of results.
  const up = before === "none" ? button.dataset.first !== "descending" : before === "descending";
  for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  for (const body of table.tBodies) {
    if (body.classList.contains("reference")) continue;  // reference rows do not compete
    const rows = [...body.rows].map(row => [sortValue(row.cells[head.cellIndex]), row]);
    rows.sort((a, b) => compareValues(a[0], b[0], up));
    body.append(...rows.map(pair => pair[1]));
  }
}

if (typeof document !== "undefined") {
  for (const button of document.querySelectorAll("th[aria-sort] button")) {
    button.addEventListener("click", () => sortBy(button));
  }
}
if (typeof module !== "undefined") module.exports = { compareValues };  // for tests outside a browser
