// Long lists: rows are made when they are asked for, a chunk at a time.
/**
 * @param box where rows go
 * @param step how many at a time
 * @param row makes the nodes of an item
 * @param more buttons that bring the next chunk, or all
 * @param told called with the numbers shown and there
 */
function lazy({ box, step, row, more, all, told }) {
  let items = [];
  let shown = 0;
  function grow(target) {
    const end = Math.min(items.length, target);
    const made = document.createDocumentFragment();
    for (; shown < end; shown++) made.append(...row(items[shown]));
    box.append(made);
    const left = items.length - shown;
    more.hidden = left === 0;
    more.textContent = "Show " + count(Math.min(step, left)) + " more";
    if (all) {
      all.hidden = left <= step;
      all.textContent = "Show all " + count(items.length);
    }
    told(shown, items.length);
  }
  function continued(target) {
    const first = shown;
    grow(target);
    // A button that goes away would take the keyboard's place with it.
    if (more.hidden) box.querySelectorAll("button")[first]?.focus({ preventScroll: true });
  }
  more.addEventListener("click", () => continued(shown + step));
  all?.addEventListener("click", () => continued(items.length));
  return {
    set(list, least = step) {
      items = list;
      shown = 0;
      box.replaceChildren();
      grow(Math.max(step, least));
    },
    reach(item) {
      const place = items.indexOf(item);
      if (place >= shown) grow(Math.ceil((place + 1) / step) * step);
      return place >= 0;
    },
    /** Have more rows for a while, as on paper; returns what takes them away again. */
    lengthen(target) {
      const [last, before, then] = [box.lastChild, shown, items];
      grow(target);
      return () => {
        // Where another list has come since, it has its own rows.
        if (items !== then || !last?.isConnected) return;
        while (box.lastChild !== last) box.lastChild.remove();
        shown = before;
        grow(shown);
      };
    },
    get shown() {
      return shown;
    },
  };
}

/** Fill a select with the values that there are. */
function choices(select, values, words = (value) => value) {
  for (const value of new Set(values)) {
    const option = el("option", {}, seen(words(value)).textContent);
    option.value = value;
    select.append(option);
  }
  select.disabled = select.options.length < 3;
}

const collator = new Intl.Collator("en", { numeric: true });
/** Order two values: numbers as numbers, texts as texts; what is missing comes last, whichever way. */
function compare(a, b, direction) {
  const missing = (a === null || a === undefined || a === "") - (b === null || b === undefined || b === "");
  if (missing) return missing;
  if (a === null || a === undefined || a === b) return 0;
  return direction * (typeof a === "number" ? a - b : collator.compare(a, b));
}
