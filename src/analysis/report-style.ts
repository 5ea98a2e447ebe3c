/** The look of report.html and the few lines of script in it. */

const LIGHT = `
--paper:#fbfbf9;--card:#fff;--ink:#1b1f24;--soft:#5c6570;--line:#e3e4e0;--accent:#0b5cad;
--good:#00694b;--good-paper:#e2f3ec;--weak:#6b5a00;--weak-paper:#f6f0d8;--hot:230,120,20;
--series-1:#0072b2;--series-2:#d55e00;--series-3:#009e73;--series-4:#cc79a7;color-scheme:light;`;

const DARK = `
--paper:#14171b;--card:#1b1f25;--ink:#e6e8ea;--soft:#9aa4ae;--line:#2d333b;--accent:#7db7f0;
--good:#7fd6b4;--good-paper:#173a2f;--weak:#e0cc7a;--weak-paper:#38321a;--hot:240,140,40;
--series-1:#56b4e9;--series-2:#f08a4b;--series-3:#3cc79a;--series-4:#e3a0c6;color-scheme:dark;`;

export const STYLE = `
:root{${LIGHT}}
@media(prefers-color-scheme:dark){:root:not([data-theme=light]){${DARK}}}
:root[data-theme=dark]{${DARK}}
*{box-sizing:border-box}
html{scroll-padding-top:1rem;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
header,main{max-width:1400px;margin:0 auto;padding:0 clamp(14px,3vw,36px)}
.bar{display:flex;align-items:center;gap:1rem;padding:14px 0;border-bottom:1px solid var(--line)}
.brand{font-weight:650;letter-spacing:.02em}
nav{display:flex;gap:1rem;flex:1;overflow-x:auto;scrollbar-width:none}
nav a{color:var(--soft);text-decoration:none;white-space:nowrap}
nav a:hover{color:var(--accent)}
button{font:inherit;color:var(--soft);background:none;border:1px solid var(--line);border-radius:8px;width:34px;height:30px;cursor:pointer}
button:hover{color:var(--ink)}
h1{font-size:clamp(1.35rem,3vw,1.9rem);line-height:1.2;margin:28px 0 6px;overflow-wrap:anywhere;font-weight:650}
h2{font-size:1.25rem;margin:48px 0 8px;font-weight:650}
h3{font-size:1rem;margin:0;font-weight:600;overflow-wrap:anywhere}
h4{font-size:.75rem;margin:12px 0 2px;font-weight:500;color:var(--soft)}
.summary,.lead{max-width:92ch;color:var(--soft);margin:0 0 10px}
.lead strong{color:var(--ink)}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(165px,1fr));gap:10px;margin:22px 0 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:11px 14px 12px;display:flex;flex-direction:column}
.label{color:var(--soft);font-size:.8rem}
.tile .value{font-size:1.55rem;font-weight:600;line-height:1.25;font-variant-numeric:tabular-nums}
.tile .meaning{color:var(--soft);font-size:.75rem;line-height:1.35}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));gap:14px;margin-top:14px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 14px 12px}
figure svg{display:block;width:100%;height:auto;max-width:440px;margin:8px 0 4px}
figure.wide{grid-column:1/-1}figure.wide svg{max-width:760px}figure.wide figcaption{max-width:92ch}
figcaption{color:var(--soft);font-size:.8rem;line-height:1.4}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 20px;margin:12px 0;font-size:.9rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,520px),1fr));gap:14px;align-items:start;margin-top:18px}
article{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;min-width:0}
article:target{border-color:var(--accent)}
.head{display:flex;align-items:baseline;gap:10px}
.head h3{flex:1}
.head .none{color:var(--soft);font-weight:400;font-style:italic}
.rank{color:var(--soft);font-variant-numeric:tabular-nums;min-width:1.4em}
.id{color:var(--soft);font-size:.8rem;text-decoration:none;white-space:nowrap}
.scores{display:flex;flex-wrap:wrap;gap:4px 12px;font-size:.8rem;color:var(--soft);margin:4px 0 0;align-items:center;font-variant-numeric:tabular-nums}
.good,.weak{padding:0 7px;border-radius:5px;font-weight:600}
.good{color:var(--good);background:var(--good-paper)}
.weak{color:var(--weak);background:var(--weak-paper)}
.facts{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:.85rem;margin:8px 0 0;align-items:flex-end;font-variant-numeric:tabular-nums}
.fact.histogram{margin-left:auto;line-height:0}
details.lead p{margin:6px 0;font-size:.9rem}
.mini{max-width:190px;height:26px;width:auto}
.tokens{margin:6px 0 0;display:flex;flex-wrap:wrap;gap:4px 5px;align-items:baseline}
.token{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.78rem;white-space:pre;background:var(--paper);border:1px solid var(--line);border-radius:4px;padding:0 3px}
ol{list-style:none;margin:0;padding:0}
li{display:flex;gap:10px;padding:3px 0;border-top:1px solid var(--line);font-size:.88rem;line-height:1.5}
li .value{color:var(--soft);font-size:.75rem;min-width:2.6em;text-align:right;font-variant-numeric:tabular-nums;padding-top:.12em}
li .text{white-space:pre-wrap;overflow-wrap:anywhere;min-width:0}
mark{color:inherit;border-radius:3px;background:rgba(var(--hot),calc(.08 + .67*var(--a)))}
mark.peak{box-shadow:inset 0 -2px 0 rgb(var(--hot))}
.sign{color:var(--soft);opacity:.7}
details{margin:4px 0 0}
summary{color:var(--soft);font-size:.8rem;cursor:pointer}
.scroll{overflow:auto;max-height:80vh;border:1px solid var(--line);border-radius:10px;background:var(--card);margin-top:8px}
table{border-collapse:collapse;width:100%;font-size:.82rem}
th{position:sticky;top:0;background:var(--card);text-align:left;color:var(--soft);font-weight:500;padding:7px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
td{padding:3px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
td.n{text-align:right;font-variant-numeric:tabular-nums}
th[aria-sort]{color:var(--ink)}
th button{all:unset;cursor:pointer}
th button:focus-visible{outline:2px solid var(--accent)}
td .token+.token{margin-left:3px}
main{padding-bottom:60px}
@media(max-width:560px){dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:8px}.fact.histogram{margin-left:0}.tiles{grid-template-columns:1fr 1fr}.tile .value{font-size:1.3rem}}
@media print{.bar button,nav{display:none}article,figure,.tile{break-inside:avoid}}
`;

export const SCRIPT = `
"use strict";
(() => {
  const root = document.documentElement;
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.getElementById("theme").addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; });
  for (const table of document.querySelectorAll("table")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((th, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = th.textContent;
      th.replaceChildren(button);
      button.addEventListener("click", () => {
        const falling = th.getAttribute("aria-sort") !== "descending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        th.setAttribute("aria-sort", falling ? "descending" : "ascending");
        const value = (row) => row.cells[Math.min(column, row.cells.length - 1)].dataset.v;
        const rows = [...body.rows].sort((a, b) => {
          const x = value(a), y = value(b);
          if (x === "" || y === "") return x === y ? 0 : x === "" ? 1 : -1;
          const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
          return falling ? -order : order;
        });
        body.append(...rows);
      });
    });
  }
})();
`;
