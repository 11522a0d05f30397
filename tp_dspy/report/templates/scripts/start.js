// The page itself: theme, copying, printing, and loading again while a run goes on.
function startTheme() {
  const button = byId("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem("tp-theme");
  } catch {
    // As with the other store.
  }
  const isDark = () => (chosen === null ? dark.matches : chosen === "dark");
  const apply = () => {
    if (chosen !== null) root.dataset.theme = chosen;
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", "Dark theme");
    button.setAttribute("aria-pressed", isDark());
  };
  button.addEventListener("click", () => {
    chosen = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("tp-theme", chosen);
    } catch {
      // It holds until the page is closed.
    }
    apply();
  });
  dark.addEventListener("change", apply);
  apply();
}

function startCopying() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", () => copy(data.copies[Number(button.dataset.copy)], button));
  }
}

function startPrinting() {
  const after = [];
  const restore = () => after.splice(0).forEach((undo) => undo());
  addEventListener("beforeprint", () => {
    restore();
    after.push(lengthenCandidates());
    for (const one of document.querySelectorAll("details:not([open], .step)")) {
      one.open = true;
      after.push(() => (one.open = false));
    }
  });
  addEventListener("afterprint", restore);
}

function startKeeping() {
  const details = () => [...document.querySelectorAll("details[id]")];
  const unfolded = keep("details", () => Object.fromEntries(details().map((one) => [one.id, one.open]))) || {};
  for (const one of details()) if (one.id in unfolded) one.open = unfolded[one.id];
  const focus = keep("focus", () => document.activeElement?.id || null);
  const place = keep("scroll", () => [scrollX, scrollY]);
  addEventListener("pagehide", remember);
  history.scrollRestoration = "manual";
  if (place && !location.hash) scrollTo({ left: place[0], top: place[1], behavior: "instant" });
  if (focus) byId(focus)?.focus({ preventScroll: true });
}

/** Load the page again from time to time, but not while something is being chosen or marked in it. */
function startRefreshing() {
  if (data.refresh === null) return;
  let paused = keep("paused", () => paused) || false;
  let waited = 0;
  const button = byId("pause");
  const apply = () => {
    button.textContent = paused ? "Go on" : "Pause";
    button.setAttribute("aria-pressed", paused);
  };
  button.addEventListener("click", () => {
    paused = !paused;
    apply();
  });
  apply();
  setInterval(() => {
    const busy = document.activeElement?.matches("select") || !getSelection().isCollapsed;
    if (paused || document.hidden || (busy && waited++ < 6)) return;
    remember();
    location.reload();
  }, 1000 * data.refresh);
}

function followHash() {
  const row = /^#c\d+$/.test(location.hash) ? rows[Number(location.hash.slice(2))] : undefined;
  if (row) show(row);
}

startTheme();
startCandidates();
startRejected();
startQuestions();
startCopying();
startPrinting();
startKeeping();
startRefreshing();
addEventListener("hashchange", followHash);
followHash();
performance.mark("tp-ready");
