// What all parts share. The DOM is built from text nodes alone: no text of an LM is ever read as markup.
const root = document.documentElement;
root.classList.add("scripts");
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);

const point = (code) => "\\u{" + code.toString(16) + "}";
const hidden = new RegExp("[" + data.hidden.map(([a, b]) => point(a) + "-" + point(b)).join("") + "]", "gu");

/** Make an element; what begins with "on" listens, what is undefined or false is left out. */
function el(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A text as nodes, with a mark in the place of each character that cannot be seen. */
function seen(text) {
  const whole = String(text).replaceAll("\r\n", "\n");
  const nodes = document.createDocumentFragment();
  let end = 0;
  for (const found of whole.matchAll(hidden)) {
    nodes.append(whole.slice(end, found.index));
    const code = found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    nodes.append(el("span", { class: "mark" }, "U+" + code));
    end = found.index + found[0].length;
  }
  nodes.append(whole.slice(end));
  return nodes;
}
const said = (text) => el("bdi", { dir: "auto" }, seen(text));
const block = (text, more) => el("div", { class: "text" + (more ? " " + more : ""), dir: "auto" }, seen(text));
const number = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const range = (low, high) => (low === null || low === undefined ? null : number(low, 2) + " to " + number(high, 2));
const count = (n) => n.toLocaleString("en");

// What is kept while the page loads itself again, and in this tab only. Without a store, nothing is kept.
const store = {
  key: "tp:" + location.pathname,
  read() {
    try {
      return JSON.parse(sessionStorage.getItem(this.key)) || {};
    } catch {
      return {};
    }
  },
  write(state) {
    try {
      sessionStorage.setItem(this.key, JSON.stringify(state));
    } catch {
      // A page in a sandbox has no store; it works without.
    }
  },
};
const kept = store.read();
const keepers = [];
/** Have `read` asked for what is to be kept under a name; returns what was kept. */
function keep(name, read) {
  keepers.push((state) => (state[name] = read()));
  return kept[name];
}
function remember() {
  const state = {};
  for (const keeper of keepers) keeper(state);
  store.write(state);
}

async function copy(text, button) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", { class: "unseen", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
  }
  button.focus();
  const words = [...button.childNodes];
  button.replaceChildren(done ? "Copied" : "Not copied");
  setTimeout(() => button.replaceChildren(...words), 1500);
}
function copyButton(text, what) {
  const words = ["Copy", el("span", { class: "unseen" }, " " + what)];
  return el("button", { type: "button", class: "quiet", onclick: (event) => copy(text, event.currentTarget) }, ...words);
}
