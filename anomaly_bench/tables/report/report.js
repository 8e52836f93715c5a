"use strict";
(() => {
  const collator = new Intl.Collator("en", { numeric: true });
  const next = new Map([[null, "ascending"], ["ascending", "descending"]]);
  const paperOrder = new WeakMap();

  function sort(table, header) {
    const body = table.tBodies[0];
    if (!paperOrder.has(table)) paperOrder.set(table, [...body.rows]);
    const direction = next.get(header.getAttribute("aria-sort"));
    table.querySelector("th[aria-sort]")?.removeAttribute("aria-sort");
    const rows = [...paperOrder.get(table)];
    if (direction) {
      header.setAttribute("aria-sort", direction);
      const cell = (row) => row.cells[header.dataset.column];
      const numeric = rows.some((row) => "value" in cell(row).dataset);
      const key = (row) => numeric ? cell(row).dataset.value ?? "" : cell(row).textContent.trim();
      const compare = numeric ? (a, b) => a - b : collator.compare;
      const sign = direction === "ascending" ? 1 : -1;
      const full = rows.filter((row) => key(row) !== "");
      const empty = rows.filter((row) => key(row) === "");
      rows.splice(0, rows.length, ...full.sort((a, b) => sign * compare(key(a), key(b))), ...empty);
    }
    body.append(...rows);
  }

  for (const header of document.querySelectorAll("table.sortable th[data-column]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(header.closest("table"), header));
    header.append(button);
  }

  // A click or Enter opens a box without any script; hovering needs one. A click on a hovered number keeps its box.
  if (!HTMLElement.prototype.togglePopover) return;
  const boxOf = (button) => document.getElementById(button.getAttribute("popovertarget"));
  let hovered = null;
  let timer = 0;

  document.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse") return;
    const button = event.target.closest("button.value");
    const box = button ? boxOf(button) : event.target.closest("[popover]");
    clearTimeout(timer);
    if (box === hovered) return;
    timer = setTimeout(() => {
      if (hovered?.matches(":popover-open")) hovered.hidePopover();
      hovered = null;
      if (!button || document.querySelector(":popover-open")) return;
      box.showPopover({ source: button });
      hovered = box;
    }, 250);
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.value");
    clearTimeout(timer);
    if (button && hovered === boxOf(button) && hovered.matches(":popover-open")) event.preventDefault();
    hovered = null;
  });
})();
