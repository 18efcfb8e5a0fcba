"use strict";
const { kinds, cells, boards, skipped, links, unseen, figures: numbers } = JSON.parse(document.getElementById("data").textContent);
const SEED = ["seed", "record", "digest", "commit", "c_acc", "asr", "status", "reason"];
for (const [place, cell] of cells.entries()) {
  cell.place = place;
  for (const name in cell.m) cell.m[name] = numbers[cell.m[name]]; // equal figures are sent once
  if (cell.v !== undefined) cell.cost = numbers[cell.v];
  cell.n = cell.n.map((seed) => Object.fromEntries(SEED.map((name, place) => [name, seed[place] ?? undefined])));
}
const PAGE = 100;
const FIGURES = { asr: "ASR", net_asr: "net ASR", c_acc: "C-Acc", c_acc_lost: "C-Acc lost", r_acc: "R-Acc", undefended_asr: "ASR undefended", undefended_c_acc: "C-Acc undefended", undefended_r_acc: "R-Acc undefended", clean_asr: "ASR of clean training", clean_c_acc: "C-Acc of clean training", certified: "certified accuracy at radius 0", median_radius: "median radius", epsilon: "epsilon", tpr: "TPR of the filter", fpr: "FPR of the filter", auroc: "AUROC within class", cover: "cover rows", cover_removed: "cover rows that the filter removed", seconds: "seconds" };
const PLAIN = new Set(["seconds", "median_radius", "epsilon", "auroc", "cover"]);
const UNITS = { median_radius: "u", certified: "u", epsilon: "e" };
const COLUMNS = [["t", "task"], ["a", "attack"], ["r", "rate"], ["d", "defense"], ["s", "setting"], ["n", "seeds"], ["clean_c_acc", "clean C-Acc"], ["undefended_c_acc", "undef. C-Acc"], ["undefended_asr", "undef. ASR"], ["c_acc", "C-Acc"], ["asr", "ASR"], ["net_asr", "net ASR"], ["o", "rank by net ASR"], ["r_acc", "R-Acc"], ["clean_asr", "clean ASR"], ["median_radius", "median radius"], ["epsilon", "epsilon"], ["tpr", "TPR"], ["fpr", "FPR"], ["seconds", "seconds"]];
const TEXT = new Set(["t", "a", "d", "s"]);
const COLOURS = ["#0b72d0", "#d9480f", "#2b8a3e", "#9c36b5", "#c2255c", "#0c8599", "#e8a200", "#5f3dc4", "#74783b", "#a0522d", "#087f5b", "#868e96"];
const GROUPS = { all: "Met every attack of this tab", some: "Met fewer attacks: the worst case may look better than it is", unranked: "Not ranked: loses too much C-Acc, or no seed was done", reference: "For comparison" };
const RADII = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];
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

function byId(name) { return document.getElementById(name); }
function fill(name, ...inside) { byId(name).replaceChildren(...inside); }
function show(name, there) { byId(name).hidden = !there; }

// the view lies in the address, so that a link opens the same view
function state() { return Object.fromEntries(new URLSearchParams(location.hash.slice(1))); }
function change(told) {
  const next = { ...state(), ...told };
  for (const key of Object.keys(next)) if (next[key] === "") delete next[key];
  history.replaceState(null, "", "#" + new URLSearchParams(next));
  shown = PAGE;
  draw();
}
const NO_FILTER = { family: "", threat: "", learner: "", rate: "", q: "" };
function openCell(cell) {
  change({ ...NO_FILTER, kind: cell.y, task: cell.t, open: String(cell.place) });
  const button = byId("open-" + cell.place);
  button.scrollIntoView({ block: "center" });
  button.focus({ preventScroll: true });
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
function spread(name, figure) {
  if (!figure) return "";
  const middle = one(name, figure[0]), range = pair(name, figure[1], " to ");
  return middle + (range && range !== middle + " to " + middle ? " (" + range + ")" : "");
}
function told(cell, name) { return spread(name, cell.m[name]); }
function unit(cell, name) { return (UNITS[name] && cell.m[name] && cell[UNITS[name]]) || ""; }
function ends(name, figure) { return figure && figure[2] ? pair(name, figure[2], " to ") : ""; }
function interval(cell, name) { const text = ends(name, cell.m[name]); return text && "95 % interval " + text; }
function ranked(cell) { return cell.o ? [...new Set(cell.o)].join(" to ") : ""; }
function value(cell, name) {
  if (name === "n") return cell.n.length;
  if (name === "o") return cell.o && cell.o[0] + cell.o[1] / 1000 + cell.m.net_asr[0] / 10000;
  if (name === "r") return cell.r === null ? -1 : cell.r;
  return TEXT.has(name) ? cell[name] : cell.m[name] ? cell.m[name][0] : null;
}
function few(cell) { return cell.n.length < 3 ? "few" : undefined; }
function shade(node, share) { node.style.backgroundColor = "rgba(var(--bad), " + (0.45 * share).toFixed(3) + ")"; return node; }

// a name with its links to the documentation; a pair such as "badnets+alie" has one link for each part, and may break behind + and _
function named(part, text) {
  const inside = text.split("+").flatMap((name, place) => [...(place ? ["+", make("wbr")] : []), ...(Object.hasOwn(links[part], name) ? [make("a", { href: links[part][name] }, ...broken(name))] : broken(name))]);
  return make("span", { class: "name" }, ...inside);
}
function broken(name) { return name.split(/(?<=[_+])/).flatMap((piece, place) => (place ? [make("wbr"), piece] : [piece])); }
function soft(...texts) { const text = texts.filter(Boolean).join(", "); return text ? make("span", { class: "unit" }, text) : ""; }

function choose(label, key, options, now) {
  const select = make("select", { id: key });
  for (const [name, text] of options) select.append(make("option", { value: name, selected: name === now }, text));
  select.addEventListener("change", () => change({ [key]: select.value, open: "", ...(key === "task" ? { ...NO_FILTER, figure: "" } : {}) }));
  return make("label", {}, label, select);
}

function draw() {
  const now = state(), opened = cells[+now.open], focused = document.activeElement && document.activeElement.id;
  const kind = kinds.find((one) => one.name === (now.kind || (opened && opened.y))) || kinds[0];
  show("panel", kind);
  if (!kind) return;
  const mine = boards.filter((board) => board.kind === kind.name);
  const board = mine.find((one) => one.task === (now.task || (opened && opened.t))) || mine[0];
  const ofBoard = cells.filter((cell) => cell.y === kind.name && cell.t === board.task);
  const ofBoth = ofBoard.filter((cell) => (!now.family || cell.f === now.family || cell.f === "none") && (!now.threat || cell.h === now.threat || cell.f === "none") && (!now.learner || cell.l === now.learner));
  const wanted = (now.q || "").toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = ofBoth.filter((cell) => (!now.rate || cell.r === null || String(cell.r) === now.rate) && wanted.every((word) => [cell.a, cell.d, cell.s, cell.l].join(" ").toLowerCase().includes(word)));
  tabs(kind);
  byId("about").textContent = kind.about;
  fill("tasks", choose("task", "task", mine.map(({ task }) => [task, task]), board.task));
  proofs(board);
  summary(board);
  matrix(now, board);
  filters(now, ofBoard, ofBoth);
  figures(chosen);
  table(now, chosen);
  if (focused && byId(focused)) byId(focused).focus({ preventScroll: true });
}

function tabs(kind) {
  const list = kinds.map((one) => make("button", { id: "tab-" + one.name, role: "tab", type: "button", "aria-controls": "panel", "aria-selected": String(one === kind), tabindex: one === kind ? "0" : "-1", on: () => turn(one) }, one.title));
  fill("tabs", ...list);
  byId("panel").setAttribute("aria-labelledby", "tab-" + kind.name);
}
function turn(kind) {
  change({ ...NO_FILTER, kind: kind.name, task: "", figure: "", sort: "", down: "", open: "" });
  byId("tab-" + kind.name).focus();
}
byId("tabs").addEventListener("keydown", (event) => {
  const place = kinds.findIndex((kind) => "tab-" + kind.name === document.activeElement.id);
  const next = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: kinds.length - 1 }[event.key];
  if (place < 0 || next === undefined) return;
  event.preventDefault();
  turn(kinds[(next + kinds.length) % kinds.length]);
});

// a table that turns into cards on a narrow screen, where each figure stands beside the name of its column
function cards(name, columns, groups) {
  const head = make("tr", { role: "row" }, ...columns.map(([label, kind]) => make("th", { role: "columnheader", scope: "col", class: kind }, label)));
  const body = groups.flatMap(([title, rows]) => [
    ...(title ? [make("tr", { role: "row", class: "group" }, make("th", { role: "rowheader", scope: "colgroup", colspan: columns.length, class: "text" }, title))] : []),
    ...rows.map((row) => make("tr", { role: "row" }, ...row.map((node, place) => { node.setAttribute("role", place ? "cell" : "rowheader"); node.dataset.label = columns[place][0]; node.classList.add(...(columns[place][1] || "").split(" ").filter(Boolean)); return node; }))),
  ]);
  fill(name, make("thead", { role: "rowgroup" }, head), make("tbody", { role: "rowgroup" }, ...body));
}

function summary(board) {
  show("standings", board.standings.length);
  byId("standings-title").textContent = board.proofs.length ? "The same defenses under attacks" : "Defenses, best worst case first";
  const columns = [["defense", "text"], ["worst case"], ["under", "text"], ["rank there"], ["attacks met"], ["C-Acc lost without attack"], ["note", "text long"]];
  const groups = Object.entries(GROUPS).map(([group, title]) => [title, board.standings.filter((one) => one.group === group).map((one) => standing(board, one))]);
  cards("summary", columns, groups.filter(([, rows]) => rows.length));
}
function standing(board, one) {
  const cell = cells[one.worst], damage = cell.m[cell.p], cost = one.cost === null ? undefined : numbers[one.cost];
  const met = one.cells.filter((place) => place !== null).length;
  return [
    make("th", { scope: "row" }, named("defense", one.d)),
    shade(make("td", { class: few(cell) }, FIGURES[cell.p] + " " + spread(cell.p, damage), within(cell.p, damage)), damage[0]),
    make("td", {}, make("button", { class: "link", type: "button", on: () => openCell(cell) }, ...broken(cell.a)), soft(percent(cell.r), cell.s)),
    make("td", {}, cell.o ? ranked(cell) + " of " + cell.g : "-"),
    make("td", { class: met < board.columns.length ? "fewer" : undefined }, met + " of " + board.columns.length),
    make("td", {}, ...loss(cost)),
    make("td", {}, ...notes(board, one).map((text) => make("div", {}, text))),
  ];
}
function within(name, figure) { const text = ends(name, figure); return text ? soft("95 % interval " + text) : ""; }
function loss(cost) { return cost ? [spread("c_acc_lost", cost), within("c_acc_lost", cost)] : ["no record"]; }
function notes(board, one) {
  const missing = board.columns.map((column, place) => [column, place]).filter(([, place]) => one.cells[place] === null);
  const list = (wanted) => frequent(missing.filter(([, place]) => one.barred.includes(place) === wanted).map(([column]) => column.a)).map(([name, count]) => heading(board, name, count));
  const failing = one.cells.map((place) => cells[place]).filter((cell) => cell && cell.w);
  return [
    one.reference && one.reference[0].toUpperCase() + one.reference.slice(1) + ".",
    failing.length > 1 && "Not ranked under " + failing.length + " of " + board.columns.length + " attacks.",
    failing.length && (failing.length > 1 ? "For example " : "Not ranked under ") + failing[0].a + ": " + failing[0].w + ".",
    list(true).length && "Cannot be run against " + list(true).join(", ") + ".",
    list(false).length && "No record against " + list(false).join(", ") + ".",
  ].filter(Boolean);
}
function heading(board, name, count) {
  const all = board.columns.filter((column) => column.a === name).length;
  return name + (all === 1 ? "" : " in " + count + " of " + all + " settings");
}

function proofs(board) {
  show("certified", board.proofs.length);
  const all = board.proofs.flatMap(([, places]) => places.map((place) => cells[place]));
  const columns = [["defense", "text"], ["median radius"], ["certified accuracy at radius 0"], ["C-Acc lost without attack"], ["seeds"], ["learner and setting", "text long"]];
  cards("proofs", columns, board.proofs.map(([counted, places]) => ["Radii count: " + counted, places.map((place) => proof(cells[place]))]));
  const longest = Math.max(0, ...all.map((cell) => (cell.k && cell.k.certified ? cell.k.certified.length : 0)));
  const radii = RADII.filter((radius) => radius < longest);
  const head = make("tr", {}, make("th", { class: "text" }, "defense"), ...radii.map((radius) => make("th", { scope: "col" }, "radius " + radius)));
  const body = board.proofs.flatMap(([counted, places]) => [
    make("tr", { class: "group" }, make("th", { class: "text", scope: "colgroup", colspan: radii.length + 1 }, make("span", {}, "Radii count: " + counted))),
    ...places.map((place) => make("tr", {}, make("th", { class: "text", scope: "row" }, named("defense", cells[place].d), soft(cells[place].l, cells[place].s)), ...radii.map((radius) => make("td", { class: few(cells[place]) }, proved(cells[place], radius))))),
  ]);
  fill("radii", make("thead", {}, head), make("tbody", {}, ...body));
}
function proof(cell) {
  const radius = cell.m.median_radius;
  return [
    make("th", { scope: "row" }, named("defense", cell.d)),
    make("td", { class: few(cell) }, make("button", { class: "link", type: "button", on: () => openCell(cell) }, radius[0] < 0 ? "none: fewer than half of the rows are proved" : told(cell, "median_radius"))),
    make("td", { class: few(cell) }, told(cell, "certified"), within("certified", cell.m.certified)),
    make("td", {}, ...loss(cell.cost)),
    make("td", {}, String(cell.n.length)),
    make("td", {}, [cell.a === "none" ? "" : "under " + [cell.a, percent(cell.r)].join(" "), cell.l, cell.s].filter(Boolean).join(", ")),
  ];
}
function proved(cell, radius) {
  const curve = (cell.k && cell.k.certified) || [];
  return radius < curve.length ? one("certified", curve[radius]) : curve.length && curve[curve.length - 1] > 0 ? "below " + one("certified", curve[curve.length - 1]) : "0.0";
}

function filters(now, ofBoard, ofBoth) {
  const search = make("input", { id: "q", type: "search", value: now.q || "", placeholder: "attack, defense, setting" });
  search.addEventListener("change", () => change({ q: search.value, open: "" }));
  const any = (list, name) => [["", "all"], ...list.map(([value, count]) => [value, (name ? name(value) : value) + " (" + count + ")"])];
  const [families, threats, learners] = ["f", "h", "l"].map((name) => frequent(ofBoard.map((cell) => cell[name])));
  const rates = frequent(ofBoth.filter((cell) => cell.r !== null).map((cell) => String(cell.r)));
  fill(
    "filters",
    choose("family of the attack", "family", any(families), now.family || ""),
    choose("what the attacker may do", "threat", any(threats), now.threat || ""),
    choose("learner", "learner", any(learners), now.learner || ""),
    choose("poison rate", "rate", any(rates, (rate) => percent(+rate)), now.rate || ""),
    make("label", {}, "search", search),
  );
}

// one column for each attack in one setting, so that all figures of a column can be compared
function matrix(now, board) {
  show("against", board.standings.length);
  const all = board.standings.flatMap((one) => one.cells.filter((place) => place !== null).map((place) => cells[place]));
  const options = [["", "damage"], ...Object.entries(FIGURES).filter(([name]) => all.some((cell) => cell.m[name]))];
  const wanted = options.some(([name]) => name === now.figure) ? now.figure : "";
  fill("figure-of-matrix", choose("figure", "figure", options, wanted));
  const asked = (cell) => wanted || cell.p, first = (place) => { const found = board.standings.find((one) => one.cells[place] !== null); return found && cells[found.cells[place]]; };
  const head = make("tr", {}, make("th", { class: "text" }, "defense"), ...board.columns.map((column, place) => make("th", { scope: "col" }, named("attack", column.a), soft(percent(column.r), column.s), first(place) ? soft(FIGURES[asked(first(place))]) : "")));
  const body = board.standings.map((row) => make("tr", {}, make("th", { class: "text", scope: "row" }, named("defense", row.d)), ...row.cells.map((place, column) => {
    if (place === null) return make("td", {}, row.barred.includes(column) ? make("span", { class: "soft", title: "cannot be run" }, "n/a") : "");
    const cell = cells[place], name = asked(cell), figure = cell.m[name];
    const hint = [cell.s || "default setting", told(cell, name), unit(cell, name), interval(cell, name)].filter(Boolean).join("; ");
    const node = make("td", { class: few(cell), title: hint }, make("button", { type: "button", on: () => openCell(cell) }, figure ? one(name, figure[0]) : "-"));
    return shade(node, !figure ? 0 : name.endsWith("asr") || name === "c_acc_lost" ? figure[0] : name.endsWith("c_acc") ? 1 - figure[0] : 0);
  })));
  fill("matrix", make("thead", {}, head), make("tbody", {}, ...body));
}

function table(now, chosen) {
  const key = now.sort || "a", sign = now.down ? -1 : 1;
  const rows = [...chosen].sort((one, other) => {
    const left = value(one, key), right = value(other, key);
    if (left === null || right === null) return (left === null) - (right === null);
    return sign * (left < right ? -1 : left > right ? 1 : 0) || one.place - other.place;
  });
  const opened = now.open === undefined ? null : cells[+now.open];
  if (opened && rows.includes(opened)) { rows.splice(rows.indexOf(opened), 1); rows.unshift(opened); }
  const columns = COLUMNS.filter(([name]) => TEXT.has(name) || chosen.some((cell) => (name === "r" ? cell.r : name === "o" ? cell.o || cell.w || null : value(cell, name)) !== null));
  byId("count").textContent = rows.length + (rows.length === 1 ? " cell." : " cells.") + " The head of a column sorts by it. The name of an attack opens its cell.";
  const head = make("tr", {}, ...columns.map(([name, label]) => make("th", { scope: "col", class: TEXT.has(name) ? "text" : undefined, "aria-sort": name === key ? (now.down ? "descending" : "ascending") : "none" }, make("button", { id: "sort-" + name, type: "button", on: () => change({ sort: name, down: name === key && !now.down ? "1" : "" }) }, label + (name === key ? (now.down ? " ▾" : " ▴") : "")))));
  const body = [];
  for (const cell of rows.slice(0, shown)) {
    const place = String(cell.place);
    body.push(make("tr", { class: [few(cell), cell === opened && "open"].filter(Boolean).join(" ") || undefined }, ...columns.map(([name]) => {
      if (name === "a") return make("td", { class: "text" }, make("button", { class: "link", id: "open-" + place, type: "button", "aria-expanded": String(cell === opened), on: () => change({ open: cell === opened ? "" : place }) }, cell.a));
      const text = name === "n" ? cell.n.length + (cell.x === undefined ? "" : " \u2020") : name === "r" ? percent(cell.r) : name === "o" ? ranked(cell) || (cell.w ? "not ranked" : "") : TEXT.has(name) ? cell[name] : told(cell, name);
      const hint = name === "n" ? (unseen[cell.x] || []).join("; ") : name === "o" ? cell.w || (cell.o && "of " + cell.g + " cells") : interval(cell, name);
      const node = make("td", { class: name === "s" ? "text long" : TEXT.has(name) ? "text" : undefined, title: hint || undefined }, text);
      if (unit(cell, name)) node.append(soft(unit(cell, name)));
      return node;
    })));
    if (cell === opened) body.push(make("tr", { class: "detail" }, make("td", { colspan: columns.length }, ...detail(cell))));
  }
  fill("cells", make("thead", {}, head), make("tbody", {}, ...body));
  show("more", rows.length > shown);
  byId("more").textContent = "Show more (" + Math.max(0, rows.length - shown) + ")";
}

function detail(cell) {
  const seeds = cell.n;
  const lines = seeds.map((seed) => make("tr", {}, ...[seed.seed, seed.c_acc === undefined ? "" : (100 * seed.c_acc).toFixed(1), seed.asr === undefined ? "" : (100 * seed.asr).toFixed(1), seed.record, seed.digest, seed.commit, [seed.status, seed.reason].filter(Boolean).join(": ")].map((text) => make("td", {}, String(text ?? "")))));
  const head = make("tr", {}, ...["seed", "C-Acc", "ASR", "record", "result digest", "commit", ""].map((text) => make("td", { class: "soft" }, text)));
  const figures = Object.keys(FIGURES).filter((name) => cell.m[name]).map((name) => make("tr", {}, ...[FIGURES[name], one(name, cell.m[name][0]), pair(name, cell.m[name][1], " to ") || "-", ends(name, cell.m[name]) || "-", unit(cell, name)].map((text) => make("td", {}, text))));
  const names = make("tr", {}, ...["figure", "mean", "smallest to largest seed", "95 % interval", ""].map((text) => make("td", { class: "soft" }, text)));
  const notes = [cell.w && "Not ranked: " + cell.w + ".", cell.o && "Ranked with " + (cell.g - 1) + " others.", cell.cost && "C-Acc lost without an attack: " + spread("c_acc_lost", cell.cost) + ", 95 % interval " + ends("c_acc_lost", cell.cost) + ".", ...(unseen[cell.x] || [])].filter(Boolean);
  const read = make("p", {}, "Attack: ", named("attack", cell.a), ". Defense: ", named("defense", cell.d), ".");
  return [make("pre", {}, cell.c + " seed=" + seeds.map((seed) => seed.seed).join(",")), read, ...notes.map((note) => make("p", {}, note)), make("table", {}, names, ...figures), make("table", {}, head, ...lines)];
}

function barred() {
  show("skipped", skipped.length);
  fill("reasons", ...skipped.map(([reason, pairs]) => make("div", {}, make("h3", {}, reason.slice(0, 1).toUpperCase() + reason.slice(1)), make("ul", {}, ...pairs.map(([task, defense, attacks]) => make("li", {}, make("b", {}, named("defense", defense)), " on " + task + ", against " + attacks.map((attack) => (attack === "none" ? "no attack" : attack)).join(", ")))))));
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

byId("more").addEventListener("click", () => { shown += 10 * PAGE; const now = shown; draw(); shown = now; });
window.addEventListener("hashchange", draw);
barred();
draw();
