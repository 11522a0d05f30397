// Every candidate of the run: a table to sort and to filter, whose rows open.
const rows = data.rows;
rows.forEach((row, index) => {
  row.index = index;
  row.label = (row.phase === "source" ? "S" : "T") + row.no;
  row.words = Object.values(data.texts[row.id]).join("\n");
});
const kinds = { finalist: "finalist", met: "all examples met", unfinished: "race halted", dropped: "dropped", unscored: "not scored" };
const figure = (key) => ({ key, value: (row) => row[key], first: -1, class: "num", cell: (row) => [number(row[key], 2)] });
// Those that are left out where no candidate has a figure: without a confidence there is no calibration to tell of.
const optional = ["expected", "ece", "auroc"];
const columns = [
  { key: "label", name: "No.", value: (row) => row.label, class: "first", cell: toggle },
  { key: "words", name: "Instruction", value: (row) => row.words, class: "words", cell: (row) => [block(row.words, "clip")] },
  {
    ...figure("score"),
    name: "Score",
    class: (row) => (["dropped", "unfinished"].includes(row.kind) ? "num rough" : "num"),
    cell: (row) => [el("b", {}, number(row.score)), row.low === null ? null : el("small", {}, range(row.low, row.high))],
  },
  {
    ...figure("expected"),
    name: "Expected",
    title: "What is expected of it, all that is known taken together: few examples are drawn towards its kin",
    cell: (row) => [number(row.expected), row.sd === null ? null : el("small", {}, "± " + number(row.sd, 2))],
  },
  { ...figure("ifr"), name: "IFR", title: "Instruction-following rate" },
  { ...figure("accuracy"), name: "ACC", title: "Accuracy" },
  { ...figure("ece"), name: "ECE", title: "Expected calibration error; lower is better", first: 1 },
  { ...figure("auroc"), name: "AUROC" },
  { ...figure("met"), name: "Examples", title: "Examples it has met in the search", cell: (row) => [count(row.met)] },
  { key: "fate", name: "Fate", value: (row) => row.rank, class: "fate", cell: fate },
  { key: "phase", name: "Phase", value: (row) => row.phase, cell: (row) => [row.phase] },
  { ...figure("round"), name: "Round", first: 1, cell: (row) => [String(row.round)] },
  { key: "origin", name: "Origin", value: (row) => row.origin, cell: (row) => [row.origin] },
].filter((column) => !optional.includes(column.key) || rows.some((row) => column.value(row) !== null));
const table = byId("candidates-table");
const body = table.tBodies[0];
const sorting = keep("sorting", () => ({ key: sorting.key, direction: sorting.direction })) || { key: null, direction: 1 };
const open = new Set(keep("open", () => [...open]));
const controls = ["find", "phase", "origin", "kind"].map(byId);
const [find, phase, origin, kind] = controls;
const list = lazy({
  box: body,
  step: 100,
  row: candidate,
  more: byId("candidates-more"),
  all: byId("candidates-all"),
  told: (shown, there) => {
    const some = there === rows.length ? "" : " (of " + count(rows.length) + ")";
    byId("candidates-count").textContent =
      there === 0 ? "none" + some : (shown < there ? count(shown) + " of " : "") + count(there) + some + " shown";
  },
});

function toggle(row) {
  const button = el("button", { type: "button", class: "toggle", id: "t" + row.index, onclick: () => unfold(row) }, row.label);
  button.setAttribute("aria-expanded", open.has(row.index));
  button.setAttribute("aria-label", "Details of candidate " + row.label);
  return [button];
}
function fate(row) {
  const words = el("span", { class: row.kind === "finalist" ? "finalist" : "" }, row.fate);
  return [words, row.why ? el("small", {}, row.why) : null];
}
function candidate(row) {
  const line = el("tr", { class: "row", id: "c" + row.index, onclick: (event) => clicked(event, row) });
  for (const column of columns) {
    const kind = typeof column.class === "function" ? column.class(row) : column.class;
    line.append(el("td", { class: kind, "data-label": column.name }, ...column.cell(row).filter(Boolean)));
  }
  if (!open.has(row.index)) return [line];
  line.classList.add("open");
  return [line, detail(row)];
}
/** A click anywhere in a row opens it, but for one on something else to press, or at the end of a selection. */
function clicked(event, row) {
  if (!event.target.closest("button, a") && String(getSelection()) === "") unfold(row);
}
function unfold(row, to = !open.has(row.index)) {
  const line = byId("c" + row.index);
  if (to === open.has(row.index)) return;
  if (to) {
    open.add(row.index);
    line.after(detail(row));
  } else {
    open.delete(row.index);
    line.nextSibling.remove();
  }
  line.classList.toggle("open", to);
  byId("t" + row.index).setAttribute("aria-expanded", to);
}

function detail(row) {
  const texts = Object.entries(data.texts[row.id]);
  const left = el("div", {});
  for (const [predictor, text] of texts) {
    const title = texts.length > 1 ? ["Instruction of ", said(predictor)] : ["Instruction"];
    left.append(el("h4", {}, el("span", {}, ...title), copyButton(text, "this instruction")), block(text));
  }
  const chain = lineage(row);
  left.append(el("h4", {}, "Lineage"));
  if (chain.length === 0) left.append(el("p", { class: "muted" }, "Not derived from another candidate."));
  else left.append(el("ol", { class: "lineage" }, ...chain.map((one, place) => ancestor(one, chain[place - 1] || row, place === 0))));
  const right = el("div", {}, el("h4", {}, "By task"), byTask(row));
  if (row.final) {
    const words = "As a finalist: " + number(row.final[0]) + " on " + count(row.final[1]) + " selection examples.";
    right.append(el("p", {}, words));
  }
  if (row.race) right.append(el("p", { class: "muted" }, "In the search: " + row.race + "."));
  return el("tr", { class: "detail" }, el("td", { colspan: columns.length }, el("div", { class: "detail-grid" }, left, right)));
}
function byTask(row) {
  const head = el("tr", {}, el("th", { scope: "col" }, "Metric"));
  for (const [task] of row.by_task) head.append(el("th", { scope: "col" }, said(data.tasks[task])));
  const lines = [el("tr", {}, el("th", { scope: "row" }, "examples"), ...row.by_task.map((one) => el("td", {}, count(one[1]))))];
  data.metrics.forEach((name, place) => {
    if (row.by_task.every((one) => one[2 + place] === null)) return;
    const cells = row.by_task.map((one) => el("td", {}, number(one[2 + place])));
    lines.push(el("tr", { class: name === "Score" ? "main" : undefined }, el("th", { scope: "row" }, name), ...cells));
  });
  const figures = el("table", { class: "figures" }, el("thead", {}, head), el("tbody", {}, ...lines));
  return el("div", { class: "scroll" }, figures);
}

// Lineage: what a candidate was derived from, the nearest first.
const byPhase = { source: new Map(), target: new Map() };
for (const row of rows) byPhase[row.phase].set(row.id, row);
function parentOf(row) {
  if (row.parent !== null) return byPhase[row.phase].get(row.parent) || byPhase.source.get(row.parent) || { id: row.parent };
  return row.origin === "source" && row.phase === "target" ? byPhase.source.get(row.id) : undefined;
}
function lineage(row) {
  const chain = [];
  // A file that someone made up may go in circles.
  const met = new Set([row]);
  for (let one = parentOf(row); one && !met.has(one); one = one.index === undefined ? undefined : parentOf(one)) {
    met.add(one);
    chain.push(one);
  }
  return chain;
}
function ancestor(row, child, open) {
  if (row.index === undefined) return el("li", {}, el("small", {}, "A candidate that is not in this file"));
  const link = el("a", { href: "#c" + row.index, onclick: (event) => goTo(event, row) }, row.label);
  const about = [" · ", row.phase, " · ", row.origin, " · round ", String(row.round), " · score ", number(row.score)];
  return el("li", {}, el("small", {}, link, ...about), block(row.words, "clip"), step(row, child, open));
}
/** What became of a candidate in the next one. Compared when it is asked for: there may be a hundred steps. */
function step(before, after, open) {
  const summary = el("summary", {}, "What changed from here to " + after.label + ", word by word");
  const made = el("details", { class: "step", open, ontoggle: () => fill() }, summary);
  const fill = () => made.childElementCount > 1 || made.append(...changes(before, after));
  if (open) fill();
  return made;
}
function changes(parent, child) {
  const [old, now] = [data.texts[parent.id], data.texts[child.id]];
  const before = (predictor) => (Object.hasOwn(old, predictor) ? old[predictor] : "");
  const changed = Object.keys(now).filter((predictor) => before(predictor) !== now[predictor]);
  if (changed.length === 0) return [el("p", { class: "muted" }, "Nothing changed.")];
  return changed.flatMap((predictor) => [
    changed.length > 1 ? el("small", {}, "Instruction of ", said(predictor)) : null,
    el("div", { class: "text diff", dir: "auto" }, ...difference(before(predictor), now[predictor]).map(piece)),
  ]).filter(Boolean);
}
const piece = ([op, text]) => el({ equal: "span", delete: "del", insert: "ins" }[op], {}, seen(text));
function goTo(event, row) {
  event.preventDefault();
  show(row);
}
/** Bring a candidate into view, whatever is filtered out or not made yet. */
function show(row) {
  if (!matching().includes(row)) clear();
  list.reach(row);
  unfold(row, true);
  document.querySelectorAll("tr.found").forEach((other) => other.classList.remove("found"));
  const line = byId("c" + row.index);
  line.classList.add("found");
  line.scrollIntoView({ block: "center" });
  byId("t" + row.index).focus({ preventScroll: true });
}

function matching() {
  const words = find.value.trim().toLowerCase();
  const wanted = rows.filter(
    (row) =>
      (!phase.value || row.phase === phase.value) &&
      (!origin.value || row.origin === origin.value) &&
      (!kind.value || row.kind === kind.value) &&
      (!words || row.words.toLowerCase().includes(words) || row.label.toLowerCase() === words),
  );
  const column = columns.find((one) => one.key === sorting.key);
  return column ? wanted.sort((a, b) => compare(column.value(a), column.value(b), sorting.direction)) : wanted;
}
function refresh(least) {
  list.set(matching(), least);
  if (body.childElementCount === 0) {
    body.append(el("tr", {}, el("td", { class: "none", colspan: columns.length }, "No candidate matches.")));
  }
  for (const head of table.tHead.rows[0].cells) {
    const way = head.dataset.key === sorting.key ? sorting.direction : 0;
    if (way) head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  }
  byId("sort-by").value = sorting.key ? sorting.key + " " + sorting.direction : "";
}
function sortBy(key, direction) {
  const column = columns.find((one) => one.key === key);
  const first = column?.first || 1;
  sorting.direction = direction || (sorting.key === key ? -sorting.direction : first);
  sorting.key = key;
  refresh();
}
function clear() {
  for (const control of controls) control.value = "";
  refresh();
}

/** Paper has no button that brings more: have the rows that match, up to a limit, and say what is left out. */
function lengthenCandidates() {
  const shorten = list.lengthen(200);
  const left = matching().length - list.shown;
  const words = " more candidates are left out of this print: filter, sort or show all of them before printing to have others.";
  byId("candidates-left").textContent = left > 0 ? count(left) + words : "";
  return shorten;
}

function startCandidates() {
  for (const column of columns) {
    const button = el("button", { type: "button", title: column.title, onclick: () => sortBy(column.key) }, column.name);
    const cell = el("th", { scope: "col", class: column.first ? "num" : undefined }, button);
    cell.dataset.key = column.key;
    table.tHead.rows[0].append(cell);
    for (const way of column.first === -1 ? [-1, 1] : [1, -1]) {
      const option = el("option", {}, column.name + (way > 0 ? " ↑" : " ↓"));
      option.value = column.key + " " + way;
      byId("sort-by").append(option);
    }
  }
  byId("sort-by").prepend(el("option", { value: "" }, "finalists first"));
  byId("sort-by").addEventListener("change", (event) => {
    const [key, way] = event.target.value.split(" ");
    sortBy(key || null, Number(way) || 1);
  });
  choices(phase, rows.map((row) => row.phase));
  choices(origin, rows.map((row) => row.origin));
  choices(kind, rows.map((row) => row.kind), (value) => kinds[value]);
  const before = keep("filters", () => controls.map((control) => control.value)) || [];
  controls.forEach((control, place) => {
    control.value = before[place] || "";
    control.addEventListener(control === find ? "input" : "change", () => refresh());
  });
  byId("clear").addEventListener("click", clear);
  refresh(keep("shown", () => list.shown));
}
