"use strict";
const all = (what, inside = document) => [...inside.querySelectorAll(what)];

// Tables: a button in a heading sorts by data-v, or by the text of its cells.
for (const button of all("th button")) button.onclick = () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0];
  const at = head.cellIndex, up = head.getAttribute("aria-sort") !== "ascending";
  const value = row => row.cells[at]?.dataset.v ?? row.cells[at]?.textContent.trim() ?? "";
  const compare = (a, b) => (a === "") - (b === "") ||
    (up ? 1 : -1) * (a - b || a.localeCompare(b, undefined, {numeric: true}));
  for (const other of all("th", head.parentElement)) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...all("tr", body).sort((a, b) => compare(value(a), value(b))));
};
for (const box of all("input[type=search]")) box.oninput = () => {
  const wanted = box.value.toLowerCase();
  const rows = all("tbody tr", document.getElementById(box.dataset.of));
  for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
};

// Samples: a click shows one large, arrows the next.
const large = document.querySelector("dialog");
let shown = null;
const show = button => {
  if (!button) return;
  shown = button;
  const picture = button.querySelector(".pic").cloneNode(true);
  large.querySelector(".pic").replaceWith(picture);
  large.style.cssText = button.closest(".strip").style.cssText;
  large.querySelector("p").textContent = button.dataset.said;
  if (!large.open) large.showModal();
};
const step = by => {
  const buttons = all(".strip button", shown.closest(".strip"));
  show(buttons[buttons.indexOf(shown) + by]);
};
for (const button of all(".strip button")) button.onclick = () => show(button);
if (large) {
  large.onkeydown = event => {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (by) step(by);
  };
  large.onclose = () => shown.focus();
  const [back, on, close] = all("button", large);
  back.onclick = () => step(-1);
  on.onclick = () => step(1);
  close.onclick = () => large.close();
}

// Answers: the chosen one's samples are framed.
const frame = chosen => {
  const video = chosen.closest("section");
  for (const one of all("[data-answers]", video))
    one.classList.toggle("on", one.dataset.answers.split(" ").includes(chosen.value));
};
for (const radio of all(".answer input")) radio.onchange = () => frame(radio);
