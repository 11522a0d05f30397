// The difference of two texts, word by word: as tp_dspy/report/words.py has it, for texts that are compared on demand.
const spaced = /[\p{L}\p{M}\p{N}_]+\s*|\s+|[^\p{L}\p{M}\p{N}_\s]\s*/gu;
const words = /[\p{L}\p{M}\p{N}_]+|\s+|[^\p{L}\p{M}\p{N}_\s]/gu;
// Pairs of words to look at; what is longer is taken as replaced where both ends differ.
const mostPairs = 2e6;

function sameAtStart(a, b) {
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n++;
  return n;
}
/** Pieces of two lists of words: what they have in common at both ends apart, and what `inner` makes of the middle. */
function between(a, b, inner) {
  const start = sameAtStart(a, b);
  const [restA, restB] = [a.slice(start), b.slice(start)];
  const end = sameAtStart([...restA].reverse(), [...restB].reverse());
  const middle = inner(restA.slice(0, restA.length - end), restB.slice(0, restB.length - end));
  return [["equal", a.slice(0, start).join("")], ...middle, ["equal", restA.slice(restA.length - end).join("")]];
}
const replaced = (a, b) =>
  between(a.join("").match(words) || [], b.join("").match(words) || [], (x, y) => [["delete", x.join("")], ["insert", y.join("")]]);
/** The longest common subsequence, from a table of its lengths. */
function common(a, b) {
  if (a.length === 0 || b.length === 0 || a.length * b.length > mostPairs) return replaced(a, b);
  const wide = b.length + 1;
  const longest = new Uint16Array((a.length + 1) * wide);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      const here = i * wide + j;
      longest[here] = a[i] === b[j] ? longest[here + wide + 1] + 1 : Math.max(longest[here + wide], longest[here + 1]);
    }
  }
  const pieces = [];
  let [i, j, fromA, fromB] = [0, 0, 0, 0];
  while (i < a.length && j < b.length) {
    if (a[i] === b[j]) {
      pieces.push(...replaced(a.slice(fromA, i), b.slice(fromB, j)), ["equal", a[i]]);
      [i, j] = [i + 1, j + 1];
      [fromA, fromB] = [i, j];
    } else if (longest[(i + 1) * wide + j] >= longest[i * wide + j + 1]) i++;
    else j++;
  }
  return [...pieces, ...replaced(a.slice(fromA), b.slice(fromB))];
}
/** Join what belongs together; a space between two changes is taken as changed, too: it reads better. */
function merged(pieces) {
  const found = [];
  let [deleted, inserted, space] = ["", "", ""];
  const flush = () => {
    for (const [op, text] of [["delete", deleted], ["insert", inserted], ["equal", space]]) {
      if (text && found.at(-1)?.[0] === op) found.at(-1)[1] += text;
      else if (text) found.push([op, text]);
    }
    [deleted, inserted, space] = ["", "", ""];
  };
  for (const [op, text] of pieces) {
    if (text === "") continue;
    if (op === "equal") {
      const lone = (deleted || inserted) && !space && text.trim() === "";
      space += text;
      if (!lone) flush();
    } else {
      [deleted, inserted, space] = [deleted + space, inserted + space, ""];
      if (op === "delete") deleted += text;
      else inserted += text;
    }
  }
  flush();
  return found;
}
/** Pieces in reading order, each "equal", "delete" or "insert" and its text. */
function difference(before, after) {
  return merged(between(before.match(spaced) || [], after.match(spaced) || [], common));
}
