"use strict";
// Comforts only: a page says all it has to say without this script, and what needs it is hidden until it runs.
document.querySelectorAll("[data-needs-script]").forEach((part) => { part.hidden = false; });

// A link to a folded part opens it.
function openTarget() {
  const id = decodeURIComponent(location.hash.slice(1));
  for (let part = document.getElementById(id); part; part = part.parentElement) {
    if (part instanceof HTMLDetailsElement) part.open = true;
  }
  document.getElementById(id)?.scrollIntoView();
}
addEventListener("hashchange", openTarget);
if (location.hash) openTarget();

// Paper has no folds.
addEventListener("beforeprint", () => {
  document.querySelectorAll("details:not([open])").forEach((part) => { part.open = true; part.dataset.folded = ""; });
});
addEventListener("afterprint", () => {
  document.querySelectorAll("details[data-folded]").forEach((part) => { part.open = false; delete part.dataset.folded; });
});

// A button with data-copy=ID copies the text of that element, and reports in the element data-status=ID.
document.querySelectorAll("button[data-copy]").forEach((button) => {
  const source = document.getElementById(button.dataset.copy);
  const status = document.getElementById(button.dataset.status);
  const say = (words) => { status.textContent = words; };
  const bySelection = () => {
    for (let part = source; part; part = part.parentElement) {
      if (part instanceof HTMLDetailsElement) part.open = true;
    }
    getSelection().selectAllChildren(source);
    say(document.execCommand("copy") ? "copied" : "selected: copy it by keyboard");
  };
  button.addEventListener("click", () => {
    if (!navigator.clipboard) { bySelection(); return; }
    navigator.clipboard.writeText(source.textContent).then(() => say("copied"), bySelection);
  });
});

// An input with data-filter=ID shows only the rows of that table that have all its words.
document.querySelectorAll("input[data-filter]").forEach((input) => {
  const rows = [...document.getElementById(input.dataset.filter).tBodies[0].rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const status = document.getElementById(input.dataset.status);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter((word) => word);
    let shown = 0;
    rows.forEach((row, index) => {
      row.hidden = !words.every((word) => texts[index].includes(word));
      if (!row.hidden) shown += 1;
    });
    status.textContent = `${shown} of ${rows.length} shown`;
  });
});
