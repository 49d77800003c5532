"use strict";
// Filters, overlay and keyboard of the report. Text is only ever moved, never parsed: nothing here reads markup.
const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

const cards = all(".card");
const ranks = new Map(cards.map((card) => [card, JSON.parse(card.dataset.ranks)]));
const sliders = all("input[type=range]");
const dialog = one("#large");
let current = null; // the card that the keyboard is on
let large = null; // the card in the dialog

const shown = () => all("#cards > .card:not([hidden])");
const chosen = (id) => one(id)?.value ?? "";

function fits(card, finding, size) {
  const rules = Object.keys(ranks.get(card));
  if (size && card.dataset.size !== size) return false;
  if (finding === "any") return rules.length > 0;
  if (finding === "none") return rules.length === 0;
  return !finding || rules.includes(finding);
}

function filter() {
  const finding = chosen("#finding"), size = chosen("#size"), map = chosen("#map");
  const rank = (card) => ranks.get(card)[finding] ?? cards.indexOf(card);
  one("#cards").append(...[...cards].sort((a, b) => rank(a) - rank(b)));
  for (const card of cards) card.hidden = !fits(card, finding, size);
  for (const figure of all(".map")) figure.hidden = Boolean(map) && figure.dataset.map !== map;
  const left = shown();
  one("#count").value = `${left.length.toLocaleString("en")} ${left.length === 1 ? "pair" : "pairs"}`;
  one("#nothing").hidden = left.length > 0;
  select(left[0] ?? null);
}

function select(card) {
  if (current) current.tabIndex = -1;
  current = card;
  if (card) card.tabIndex = 0;
}

function go(step) {
  const left = shown();
  const at = left.indexOf(current);
  const next = left[Math.min(Math.max(at + (document.activeElement === current || dialog.open ? step : 0), 0), left.length - 1)];
  if (!next) return;
  select(next);
  if (dialog.open) enlarge();
  else next.focus();
  next.scrollIntoView({ block: "nearest" });
}

function mix(percent) {
  document.documentElement.style.setProperty("--mix", percent / 100);
  for (const slider of sliders) slider.value = percent;
}

function overlay(on) {
  document.body.dataset.view = on ? "overlay" : "side";
  one("#overlay").checked = on;
}

function enlarge() {
  if (!current) return;
  large = current;
  const figures = all(".pair > figure:not([hidden])", current).slice(0, 2); // the picture and one map
  one(".stage", dialog).replaceChildren(...figures.map((figure) => figure.cloneNode(true)));
  one(".about", dialog).replaceChildren(one(".words", current).cloneNode(true));
  if (!dialog.open) dialog.showModal();
  dialog.focus(); // not its slider: arrows go to the next pair
}

const keys = {
  ArrowRight: () => go(1), j: () => go(1),
  ArrowLeft: () => go(-1), k: () => go(-1),
  o: () => overlay(document.body.dataset.view !== "overlay"),
  "[": () => mix(Math.max(0, Number(sliders[0].value) - 10)),
  "]": () => mix(Math.min(100, Number(sliders[0].value) + 10)),
  f: () => one("#finding").focus(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input[type=range]")) return;
  if (event.key === "Enter" && event.target.matches(".card")) enlarge();
  else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
});
for (const id of ["#finding", "#size", "#map"]) one(id)?.addEventListener("change", filter);
for (const slider of sliders) slider.addEventListener("input", () => mix(slider.value));
one("#overlay").addEventListener("change", (event) => overlay(event.target.checked));
one("#cards").addEventListener("click", (event) => {
  const card = event.target.closest(".card");
  if (!card || String(getSelection())) return;
  select(card);
  enlarge();
});
one("#cards").addEventListener("focusin", (event) => select(event.target.closest(".card")));
one("main").addEventListener("click", (event) => {
  const rule = event.target.closest("[data-rule]");
  if (!rule) return;
  one("#finding").value = rule.dataset.rule;
  filter();
  one("#pairs").scrollIntoView();
});
dialog.addEventListener("click", (event) => {
  const button = event.target.closest("[data-go]");
  if (button && button.dataset.go !== "0") go(Number(button.dataset.go));
  else if (button || event.target === dialog) dialog.close();
});
dialog.addEventListener("close", () => large.focus()); // the browser itself goes back to where the dialog was opened
filter();
