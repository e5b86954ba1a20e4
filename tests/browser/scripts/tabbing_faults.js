// Compares the elements that got the focus with those that should have got it. `isDone` only asks whether all
// of them have.
({ isDone }) => {
  const name = (element) => {
    const text = element.textContent.trim().replace(/\s+/g, " ").slice(0, 40);
    return `<${element.tagName.toLowerCase()}${element.id ? ` id=${element.id}` : ""}> ${text}`;
  };
  const seen = new Set(recordedFocus.map(({ element }) => element));
  if (isDone) return wantedFocus.every((element) => seen.has(element));
  const faults = wantedFocus.filter((element) => !seen.has(element)).map((element) => `${name(element)} is not reached`);
  for (const element of wantedFocus) {
    if (element.tabIndex > 0) faults.push(`${name(element)} jumps the queue`);
  }
  const wanted = new Set(wantedFocus);
  const firsts = [...seen].filter((element) => wanted.has(element));
  const isAfter = (a, b) => a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_PRECEDING;
  for (let index = 1; index < firsts.length; index += 1) {
    if (isAfter(firsts[index - 1], firsts[index])) faults.push(`${name(firsts[index])} is out of order`);
  }
  for (const { element, isMarked, isInWindow } of recordedFocus) {
    if (!isMarked) faults.push(`${name(element)} has no visible outline`);
    if (!isInWindow) faults.push(`${name(element)} is outside of the window`);
  }
  return faults;
}
