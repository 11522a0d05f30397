// Replies that were not used, and the examples on which prompts differ.
function startRejected() {
  const box = byId("rejected");
  if (!box) return;
  const reason = byId("reason");
  const shown = lazy({
    box: byId("rejected-table").tBodies[0],
    step: 50,
    more: byId("rejected-more"),
    told: (some, there) => (byId("rejected-count").textContent = (some < there ? count(some) + " of " : "") + count(there) + " shown"),
    row: (one) => [
      el(
        "tr",
        { class: "row" },
        el("td", { "data-label": "Phase" }, one.phase),
        el("td", { "data-label": "Predictor" }, said(one.predictor)),
        el("td", { class: "wide", "data-label": "Reason" }, said(one.reason)),
        el("td", { class: "wide", "data-label": "Reply" }, one.reply ? block(one.reply) : el("span", { class: "muted" }, "empty")),
      ),
    ],
  });
  const often = new Map();
  for (const one of data.rejected) often.set(one.reason, (often.get(one.reason) || 0) + 1);
  const reasons = [...often.keys()].sort((a, b) => often.get(b) - often.get(a));
  choices(reason, reasons, (value) => value + " (" + often.get(value) + ")");
  const filter = () => shown.set(data.rejected.filter((one) => !reason.value || one.reason === reason.value));
  reason.value = keep("reason", () => reason.value) || "";
  reason.addEventListener("change", filter);
  filter();
}

const wordsOfKind = {
  all: "All of these",
  fixed: "Fixed by the target",
  broken: "Broken by the target",
  wrong: "Neither right",
  unfollowed: "Target not followed",
  failed: "No answer from the LM",
  other: "Another answer, no worse",
};
function startQuestions() {
  const group = byId("question-kinds");
  if (!group) return;
  const all = data.questions.rows;
  const of = (kind) => (kind === "all" ? all : all.filter((row) => row.kinds.includes(kind)));
  const shown = lazy({
    box: byId("questions-list"),
    step: 20,
    more: byId("questions-more"),
    told: (some, there) => (byId("questions-count").textContent = (some < there ? count(some) + " of " : "") + count(there) + " shown"),
    row: (row) => [example(row)],
  });
  let chosen = keep("examples", () => chosen) || "all";
  const choose = (kind, least) => {
    chosen = kind;
    for (const button of group.children) button.setAttribute("aria-pressed", button.dataset.kind === kind);
    shown.set(of(kind), least);
  };
  for (const [kind, words] of Object.entries(wordsOfKind)) {
    const n = of(kind).length;
    if (n === 0 && ["failed", "other"].includes(kind)) continue;
    const button = el("button", { type: "button", onclick: () => choose(kind) }, words + " (" + count(n) + ")");
    button.dataset.kind = kind;
    button.disabled = n === 0;
    group.append(button);
  }
  choose(of(chosen).length ? chosen : "all", keep("examples-shown", () => shown.shown));
}
function example(row) {
  const tags = row.kinds.map((kind) => el("span", { class: "tag" }, wordsOfKind[kind].toLowerCase()));
  const head = el("header", {}, el("div", { class: "no" }, "Example " + row.no, ...tags));
  for (const [name, value] of Object.entries(row.inputs)) head.append(field(said(name), block(value)));
  if (row.expected !== null) head.append(field("expected", el("b", {}, said(row.expected))));
  const names = data.questions.prompts;
  return el("article", { class: "example" }, head, el("div", { class: "answers" }, ...row.said.map((one, place) => answer(names[place], one))));
}
const field = (name, value) => el("div", { class: "field" }, el("span", {}, name), el("div", {}, value));
function answer(name, one) {
  const given = one.answer === null ? el("span", { class: "muted" }, one.status === "error" ? "No answer could be had." : "No answer could be read.") : block(one.answer, "given");
  const box = el("div", { class: "answer" }, el("h4", { class: "label" }, said(name)), given, el("div", { class: "marks" }, ...marks(one)));
  if (one.feedback) box.append(el("p", { class: "muted" }, said(one.feedback)));
  if (one.reply !== null && one.reply.trim() !== one.answer) box.append(el("details", {}, el("summary", {}, "Reply"), block(one.reply)));
  return box;
}
function marks(one) {
  if (one.status === "error") return [el("span", { class: "tag" }, "not counted")];
  const right = one.correct === 1 ? "✓ right" : one.correct === 0 ? "✗ wrong" : "half right: " + number(one.correct, 2);
  const found = [el("span", { class: "tag " + (one.correct === 1 ? "right" : one.correct === 0 ? "wrong" : "") }, right)];
  found.push(el("span", { class: "tag" + (one.followed ? "" : " fault") }, one.followed ? "✓ form kept" : "✗ form not kept"));
  if (one.confidence !== null) found.push(el("span", { class: "tag" }, "confidence " + number(one.confidence, 2)));
  return found;
}
