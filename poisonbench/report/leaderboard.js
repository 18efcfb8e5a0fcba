"use strict";
const { cells, unseen, figures: numbers } = JSON.parse(document.getElementById("data").textContent);
const SEED = ["seed", "record", "digest", "commit", "c_acc", "asr", "status", "reason"];
for (const cell of cells) {
  for (const name in cell.m) cell.m[name] = numbers[cell.m[name]]; // equal figures are sent once
  cell.n = cell.n.map((seed) => Object.fromEntries(SEED.map((name, place) => [name, seed[place] ?? undefined])));
}
const PAGE = 100;
const FIGURES = { asr: "ASR", net_asr: "net ASR", c_acc: "C-Acc", r_acc: "R-Acc", undefended_asr: "ASR undefended", undefended_c_acc: "C-Acc undefended", undefended_r_acc: "R-Acc undefended", clean_asr: "ASR of clean training", clean_c_acc: "C-Acc of clean training", certified: "certified accuracy at radius 0", median_radius: "median radius", epsilon: "epsilon", tpr: "TPR of the filter", fpr: "FPR of the filter", auroc: "AUROC within class", cover: "cover rows", cover_removed: "cover rows that the filter removed", seconds: "seconds" };
const PLAIN = new Set(["seconds", "median_radius", "epsilon", "auroc", "cover"]);
const UNITS = { median_radius: "u", certified: "u", epsilon: "e" };
const COLUMNS = [["t", "task"], ["a", "attack"], ["r", "rate"], ["d", "defense"], ["s", "setting"], ["n", "seeds"], ["clean_c_acc", "clean C-Acc"], ["undefended_c_acc", "undef. C-Acc"], ["undefended_asr", "undef. ASR"], ["c_acc", "C-Acc"], ["asr", "ASR"], ["net_asr", "net ASR"], ["o", "rank by net ASR"], ["r_acc", "R-Acc"], ["clean_asr", "clean ASR"], ["median_radius", "median radius"], ["epsilon", "epsilon"], ["tpr", "TPR"], ["fpr", "FPR"], ["seconds", "seconds"]];
const TEXT = new Set(["t", "a", "d", "s"]);
const COLOURS = ["#0b72d0", "#d9480f", "#2b8a3e", "#9c36b5", "#c2255c", "#0c8599", "#e8a200", "#5f3dc4", "#74783b", "#a0522d", "#087f5b", "#868e96"];
let shown = PAGE;

function make(name, told, ...inside) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(told || {})) {
    if (key === "on") node.addEventListener("click", value);
    else if (value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...inside);
  return node;
}

function svg(name, told, ...inside) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(told || {})) node.setAttribute(key, value);
  node.append(...inside);
  return node;
}

// what is looked at lies in the address, so that a view can be sent to somebody
function state() { return Object.fromEntries(new URLSearchParams(location.hash.slice(1))); }
function change(told) {
  const next = { ...state(), ...told };
  for (const key of Object.keys(next)) if (next[key] === "") delete next[key];
  history.replaceState(null, "", "#" + new URLSearchParams(next));
  shown = PAGE;
  draw();
}

function frequent(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
  return [...counts].sort((one, other) => other[1] - one[1] || (String(one[0]) < String(other[0]) ? -1 : 1));
}

function percent(rate) { return rate === null ? "" : +(100 * rate).toPrecision(4) + " %"; }
function one(name, figure) { return ((PLAIN.has(name) ? 1 : 100) * figure).toFixed(name === "auroc" ? 3 : name === "epsilon" ? 2 : name === "cover" ? 0 : 1); }
function pair(name, ends, between) { return ends ? one(name, ends[0]) + between + one(name, ends[1]) : ""; }
// a mean, and the smallest and the largest seed
function told(cell, name) {
  if (!cell.m[name]) return "";
  const [mean, ends] = cell.m[name], middle = one(name, mean), range = pair(name, ends, " to ");
  return middle + (range && range !== middle + " to " + middle ? " (" + range + ")" : "");
}
function unit(cell, name) { return (UNITS[name] && cell.m[name] && cell[UNITS[name]]) || ""; }
function interval(cell, name) { return cell.m[name] && cell.m[name][2] ? "95 % interval " + pair(name, cell.m[name][2], " to ") : ""; }
function value(cell, name) {
  if (name === "n") return cell.n.length;
  if (name === "o") return cell.o && cell.o[0] + cell.o[1] / 1000 + cell.m.net_asr[0] / 10000;
  if (name === "r") return cell.r === null ? -1 : cell.r;
  return TEXT.has(name) ? cell[name] : cell.m[name] ? cell.m[name][0] : null;
}
function few(cell) { return cell.n.length < 3 ? "few" : undefined; }

function choose(label, key, options, now) {
  const select = make("select", { id: key });
  for (const [name, text] of options) select.append(make("option", { value: name, selected: name === now }, text));
  select.addEventListener("change", () => change({ [key]: select.value, open: "" }));
  return make("label", {}, label, select);
}

function draw() {
  const now = state();
  const tasks = frequent(cells.map((cell) => cell.t));
  const task = now.task || tasks[0][0];
  const ofTask = cells.filter((cell) => cell.t === task);
  const [families, threats, learners] = ["f", "h", "l"].map((name) => frequent(ofTask.map((cell) => cell[name])));
  const ofBoth = ofTask.filter((cell) => (!now.family || cell.f === now.family || cell.f === "none") && (!now.threat || cell.h === now.threat || cell.f === "none") && (!now.learner || cell.l === now.learner));
  const rates = frequent(ofBoth.filter((cell) => cell.r !== null).map((cell) => String(cell.r)));
  const wanted = (now.q || "").toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = ofBoth.filter((cell) => (!now.rate || cell.r === null || String(cell.r) === now.rate) && wanted.every((word) => [cell.a, cell.d, cell.s, cell.l].join(" ").toLowerCase().includes(word)));
  filters(now, task, { tasks, families, threats, learners, rates });
  matrix(now, chosen);
  figures(chosen);
  table(now, chosen);
}

function filters(now, task, known) {
  const bar = document.getElementById("filters");
  const search = make("input", { id: "q", type: "search", value: now.q || "", placeholder: "attack, defense, setting" });
  search.addEventListener("change", () => change({ q: search.value, open: "" }));
  const any = (list, name) => [["", "all"], ...list.map(([value, count]) => [value, (name ? name(value) : value) + " (" + count + ")"])];
  bar.replaceChildren(
    choose("task", "task", known.tasks.map(([name, count]) => [name, name + " (" + count + ")"]), task),
    choose("family of the attack", "family", any(known.families), now.family || ""),
    choose("what the attacker may do", "threat", any(known.threats), now.threat || ""),
    choose("learner", "learner", any(known.learners), now.learner || ""),
    choose("poison rate", "rate", any(known.rates, (rate) => percent(+rate)), now.rate || ""),
    choose("figure of the matrix", "figure", Object.entries(FIGURES), now.figure || "asr"),
    make("label", {}, "search", search),
  );
}

// of several cells for one pair: the setting that most cells here share, then the plainest
function matrix(now, chosen) {
  const name = now.figure || "asr", usual = frequent(chosen.map((cell) => cell.s)).map(([setting]) => setting);
  const pairs = new Map();
  for (const cell of chosen) {
    const key = cell.a + "\n" + cell.d, rank = (one) => usual.indexOf(one.s) * 2 + (one.r === null ? 0 : Math.abs(one.r - 0.05));
    if (!pairs.has(key) || rank(cell) < rank(pairs.get(key))) pairs.set(key, cell);
  }
  const attacks = [...new Set(chosen.map((cell) => cell.a))].sort(), defenses = [...new Set(chosen.map((cell) => cell.d))].sort((one, other) => (one !== "none") - (other !== "none") || (one < other ? -1 : 1));
  document.getElementById("which").textContent = FIGURES[name] + (PLAIN.has(name) ? "" : ", in per cent") + "; where a pair has several settings, the most common one is shown. A figure opens its cell below.";
  const bad = name.endsWith("asr") || name === "fpr" || name === "seconds" || name === "epsilon" ? Math.max : Math.min;
  const units = new Set([...pairs.values()].map((cell) => unit(cell, name)).filter(Boolean)), mixed = units.size > 1;
  if (units.size) document.getElementById("which").append(" Here: " + [...units].join(", or ") + ".");
  const worst = (defense) => {
    const figures = attacks.map((attack) => pairs.get(attack + "\n" + defense)).filter((cell) => cell && cell.a !== "none" && cell.m[name]).map((cell) => cell.m[name][0]);
    return figures.length && !mixed ? one(name, bad(...figures)) : ""; // figures of two units have no worst
  };
  const head = make("tr", {}, make("th", { class: "text" }, "defense"), make("th", {}, "worst case"), ...attacks.map((attack) => make("th", {}, attack)));
  const body = defenses.map((defense) => make("tr", {}, make("th", { class: "text", scope: "row" }, defense), make("td", {}, worst(defense)), ...attacks.map((attack) => {
    const cell = pairs.get(attack + "\n" + defense);
    if (!cell) return make("td", {});
    const figure = cell.m[name], text = figure ? one(name, figure[0]) + (mixed ? " " + unit(cell, name) : "") : cell.n.every((seed) => seed.status) ? cell.n[0].status : "-";
    const shade = figure && name.endsWith("asr") ? figure[0] : figure && name.endsWith("c_acc") ? 1 - figure[0] : 0;
    const node = make("td", { class: few(cell), title: [cell.s || "default setting", told(cell, name), unit(cell, name), interval(cell, name)].filter(Boolean).join("; ") }, make("button", { on: () => change({ open: String(cells.indexOf(cell)) }) }, text));
    node.style.backgroundColor = "rgba(var(--bad), " + (0.45 * shade).toFixed(3) + ")";
    return node;
  })));
  document.getElementById("matrix").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
}

function table(now, chosen) {
  const key = now.sort || "a", sign = now.down ? -1 : 1;
  const rows = [...chosen].sort((one, other) => {
    const left = value(one, key), right = value(other, key);
    if (left === null || right === null) return (left === null) - (right === null);
    return sign * (left < right ? -1 : left > right ? 1 : 0) || cells.indexOf(one) - cells.indexOf(other);
  });
  const open = now.open === undefined ? null : cells[+now.open];
  if (open && rows.includes(open)) { rows.splice(rows.indexOf(open), 1); rows.unshift(open); }
  document.getElementById("count").textContent = rows.length + " cells; a name at the head of a column sorts by it, an attack opens its cell.";
  const head = make("tr", {}, ...COLUMNS.map(([name, label]) => make("th", { class: TEXT.has(name) ? "text" : undefined, "aria-sort": name === key ? (now.down ? "descending" : "ascending") : "none" }, make("button", { on: () => change({ sort: name, down: name === key && !now.down ? "1" : "" }) }, label + (name === key ? (now.down ? " ▾" : " ▴") : "")))));
  const body = [];
  for (const cell of rows.slice(0, shown)) {
    body.push(make("tr", { class: [few(cell), cell === open && "open"].filter(Boolean).join(" ") || undefined }, ...COLUMNS.map(([name]) => {
      if (name === "a") return make("td", { class: "text" }, make("button", { class: "link", "aria-expanded": String(cell === open), on: () => change({ open: cell === open ? "" : String(cells.indexOf(cell)) }) }, cell.a));
      const text = name === "n" ? cell.n.length + (cell.x === undefined ? "" : " \u2020") : name === "r" ? percent(cell.r) : name === "o" ? (cell.o ? [...new Set(cell.o)].join(" to ") : cell.w ? "not ranked" : "") : TEXT.has(name) ? cell[name] : told(cell, name);
      const hint = name === "n" ? (unseen[cell.x] || []).join("; ") : name === "o" ? cell.w || (cell.o && "of " + cell.g + " cells") : interval(cell, name);
      const node = make("td", { class: name === "s" ? "text long" : TEXT.has(name) ? "text" : undefined, title: hint || undefined }, text);
      if (unit(cell, name)) node.append(make("span", { class: "unit" }, unit(cell, name)));
      return node;
    })));
    if (cell === open) body.push(make("tr", { class: "detail" }, make("td", { colspan: COLUMNS.length }, ...detail(cell))));
  }
  document.getElementById("cells").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  const more = document.getElementById("more");
  more.hidden = rows.length <= shown;
  more.textContent = "Show more (" + Math.max(0, rows.length - shown) + ")";
}

function detail(cell) {
  const seeds = cell.n;
  const lines = seeds.map((seed) => make("tr", {}, ...[["seed", seed.seed], ["C-Acc", seed.c_acc === undefined ? "" : (100 * seed.c_acc).toFixed(1)], ["ASR", seed.asr === undefined ? "" : (100 * seed.asr).toFixed(1)], ["record", seed.record], ["digest", seed.digest], ["commit", seed.commit], ["", [seed.status, seed.reason].filter(Boolean).join(": ")]].map(([, text]) => make("td", {}, String(text ?? "")))));
  const head = make("tr", {}, ...["seed", "C-Acc", "ASR", "record", "result digest", "commit", ""].map((text) => make("td", { class: "soft" }, text)));
  const figures = Object.keys(FIGURES).filter((name) => cell.m[name]).map((name) => make("tr", {}, ...[FIGURES[name], one(name, cell.m[name][0]), pair(name, cell.m[name][1], " to ") || "-", pair(name, cell.m[name][2], " to ") || "-", unit(cell, name)].map((text) => make("td", {}, text))));
  const names = make("tr", {}, ...["figure", "mean", "smallest to largest seed", "95 % interval", ""].map((text) => make("td", { class: "soft" }, text)));
  const notes = [cell.w && "Not ranked: " + cell.w + ".", cell.o && "Ranked with " + (cell.g - 1) + " others.", ...(unseen[cell.x] || [])].filter(Boolean);
  return [make("pre", {}, cell.c + " seed=" + seeds.map((seed) => seed.seed).join(",")), ...notes.map((note) => make("p", {}, note)), make("table", {}, names, ...figures), make("table", {}, head, ...lines)];
}

function plot(title, frame, series) {
  const width = 460, height = 300, left = 44, right = 12, top = 10, bottom = 34;
  const x = (value) => left + (width - left - right) * (frame.log ? Math.log(value / frame.x[0]) / Math.log(frame.x[1] / frame.x[0]) : (value - frame.x[0]) / (frame.x[1] - frame.x[0] || 1));
  const y = (value) => height - bottom - (height - bottom - top) * (value - frame.y[0]) / (frame.y[1] - frame.y[0] || 1);
  const node = svg("svg", { viewBox: "0 0 " + width + " " + height, role: "img", "aria-label": title });
  for (const mark of frame.yMarks) node.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: y(mark), y2: y(mark) }), svg("text", { x: left - 6, y: y(mark) + 4, "text-anchor": "end" }, String(+mark.toFixed(2))));
  for (const mark of frame.xMarks) node.append(svg("line", { class: "axis", y1: height - bottom, y2: height - bottom + 4, x1: x(mark), x2: x(mark) }), svg("text", { x: x(mark), y: height - bottom + 16, "text-anchor": "middle" }, String(+mark.toPrecision(3))));
  node.append(svg("text", { x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, frame.xName), svg("text", { x: 10, y: (top + height - bottom) / 2, "text-anchor": "middle", transform: "rotate(-90 10 " + (top + height - bottom) / 2 + ")" }, frame.yName));
  const legend = make("div", { class: "legend" });
  series.forEach(([name, points, lines], place) => {
    const colour = COLOURS[place % COLOURS.length], dash = place >= COLOURS.length ? "5 3" : "none";
    if (lines) node.append(svg("polyline", { points: points.map(([a, b]) => x(a).toFixed(1) + "," + y(b).toFixed(1)).join(" "), fill: "none", stroke: colour, "stroke-width": 1.8, "stroke-dasharray": dash }));
    if (!lines || points.length < 6) for (const [a, b, text] of points) node.append(svg("circle", { cx: x(a).toFixed(1), cy: y(b).toFixed(1), r: 4, fill: colour, "fill-opacity": 0.8 }, svg("title", {}, text || name)));
    const dot = make("i"); dot.style.background = colour;
    legend.append(make("span", {}, dot, name));
  });
  return make("figure", {}, make("figcaption", {}, title), node, legend);
}

const UNIT = { y: [0, 1], yMarks: [0, 0.25, 0.5, 0.75, 1] };
function figures(chosen) {
  const drawn = [], groups = (list, name) => { const found = new Map(); for (const one of list) { if (!found.has(name(one))) found.set(name(one), []); found.get(name(one)).push(one); } return [...found].sort((one, other) => (one[0] < other[0] ? -1 : 1)); };
  const both = chosen.filter((cell) => cell.m.asr && cell.m.c_acc);
  if (both.length) {
    const low = Math.floor(10 * Math.min(...both.map((cell) => cell.m.c_acc[0]))) / 10;
    drawn.push(plot("C-Acc against ASR, by defense", { ...UNIT, x: [low, 1], xMarks: [0, 1, 2, 3, 4].map((step) => low + (1 - low) * step / 4), xName: "C-Acc of the defended model", yName: "ASR" }, groups(both, (cell) => cell.d).map(([name, list]) => [name, list.map((cell) => [cell.m.c_acc[0], cell.m.asr[0], [cell.a, cell.d, percent(cell.r), cell.s].join(", ")]), false])));
  }
  const dosed = groups(both.filter((cell) => cell.r > 0), (cell) => cell.a + "\n" + cell.s).filter(([, list]) => new Set(list.map((cell) => cell.r)).size > 1).sort((one, other) => other[1].length - one[1].length)[0];
  if (dosed) {
    const rates = [...new Set(dosed[1].map((cell) => cell.r))].sort((one, other) => one - other);
    drawn.push(plot("ASR of " + dosed[0].replace("\n", " ") + " by poison rate", { ...UNIT, log: true, x: [rates[0], rates[rates.length - 1]], xMarks: rates, xName: "poison rate (log)", yName: "ASR" }, groups(dosed[1], (cell) => cell.d).map(([name, list]) => [name, list.sort((one, other) => one.r - other.r).map((cell) => [cell.r, cell.m.asr[0]]), true])));
  }
  const curved = (kind, title, xName, yName, from, where = () => true) => {
    const list = chosen.filter((cell) => cell.k && cell.k[kind] && cell.k[kind].length > 1 && where(cell));
    if (!list.length) return;
    const most = frequent(list.map((cell) => cell.a + "\n" + cell.s))[0][0], same = kind === "rounds" ? list.filter((cell) => cell.a + "\n" + cell.s === most) : list;
    const end = Math.max(...same.map((cell) => cell.k[kind].length)) - 1 + from;
    drawn.push(plot(title, { ...UNIT, x: [from, end], xMarks: [0, 1, 2, 3, 4].map((step) => Math.round(from + (end - from) * step / 4)), xName, yName }, groups(same, (cell) => (kind === "rounds" ? cell.d : [cell.a, cell.d, cell.s].filter(Boolean).join(", "))).map(([name, members]) => [name, members[0].k[kind].map((height, place) => [place + from, height]), true])));
  };
  for (const [counted] of frequent(chosen.filter((cell) => cell.u).map((cell) => cell.u))) curved("certified", "Certified accuracy", counted, "certified accuracy", 0, (cell) => cell.u === counted);
  curved("rounds", "ASR round by round", "round", "ASR", 1);
  document.getElementById("figures").replaceChildren(...(drawn.length ? drawn : [make("p", { class: "soft" }, "No cell chosen here has an attack to draw.")]));
}

document.getElementById("more").addEventListener("click", () => { shown += 10 * PAGE; const now = shown; draw(); shown = now; });
window.addEventListener("hashchange", draw);
draw();
