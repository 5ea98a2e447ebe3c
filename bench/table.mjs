/** Tables for a terminal and for a Markdown page, in the form that Prettier leaves alone. */

const width = (text) => [...text].length;

/** `columns` are headings, `rows` arrays of strings; all columns but the first align to the right in a terminal. */
export function textTable(columns, rows) {
  const widths = columns.map((c, i) => Math.max(...[c, ...rows.map((r) => r[i])].map(width)));
  const line = (cells) =>
    cells
      .map((cell, i) => {
        const space = " ".repeat(widths[i] - width(cell));
        return i === 0 ? cell + space : space + cell;
      })
      .join("  ")
      .trimEnd();
  return [line(columns), widths.map((w) => "-".repeat(w)).join("  "), ...rows.map(line)].join("\n");
}

export function markdownTable(columns, rows) {
  const escaped = rows.map((row) => row.map((cell) => cell.replaceAll("|", "\\|")));
  const widths = columns.map((c, i) =>
    Math.max(3, ...[c, ...escaped.map((r) => r[i])].map((cell) => width(cell))),
  );
  const line = (cells) =>
    `| ${cells.map((cell, i) => cell + " ".repeat(widths[i] - width(cell))).join(" | ")} |`;
  return [
    line(columns),
    `| ${widths.map((w) => "-".repeat(w)).join(" | ")} |`,
    ...escaped.map(line),
  ].join("\n");
}

/** Replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->`. */
export function betweenMarkers(page, name, content) {
  const [start, end] = [`<!-- ${name} -->`, `<!-- /${name} -->`];
  const [from, to] = [page.indexOf(start), page.indexOf(end)];
  if (from < 0 || to < from)
    throw new Error(`the page must have the lines ${start} and ${end}, in this order`);
  return `${page.slice(0, from + start.length)}\n\n${content.trim()}\n\n${page.slice(to)}`;
}
