// Tables sort by a click on a column's head. Without this file the report reads the same.
"use strict";
for (const table of document.querySelectorAll("main table")) {
  const heads = table.tHead?.rows.length === 1 ? [...table.tHead.rows[0].cells] : [];
  const body = table.tBodies[0];
  if (!body || body.rows.length < 3 || body.querySelector("[rowspan],[colspan]")) continue;
  for (const [column, head] of heads.entries()) {
    if (!head.textContent.trim() || head.classList.contains("plain")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const text = (row) => row.cells[column]?.textContent.trim() ?? "";
      const value = (row) => parseFloat(text(row).replaceAll(",", "").replace("−", "-"));
      const numeric = head.classList.contains("num");
      const empty = (row) => (numeric ? isNaN(value(row)) : !text(row));
      const rows = [...body.rows].sort((a, b) => {
        if (empty(a) || empty(b)) return empty(a) - empty(b);
        const order = numeric
          ? value(a) - value(b)
          : text(a).localeCompare(text(b), "en", { numeric: true });
        return down ? -order : order;
      });
      body.append(...rows);
    });
  }
}
