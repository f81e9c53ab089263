"use strict";
for (const place of document.querySelectorAll(".chart")) {
  const spec = JSON.parse(place.querySelector("script").textContent);
  vegaEmbed(place, spec, { actions: false, renderer: "svg" });
}

function sortBy(button) {
  const header = button.closest("th");
  const body = header.closest("table").tBodies[0];
  const upwards = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", upwards ? "ascending" : "descending");
  const value = (row) => row.cells[header.cellIndex].dataset.value;
  const compare = (a, b) =>
    isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
  const [known, unknown] = [[], []];
  for (const row of body.rows) (value(row) === undefined ? unknown : known).push(row);
  known.sort((a, b) => (upwards ? 1 : -1) * compare(value(a), value(b)));
  body.append(...known, ...unknown); // What has no value comes last either way.
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button));
}
