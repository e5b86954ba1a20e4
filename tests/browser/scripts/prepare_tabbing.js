// Lists the elements that the Tab key has to reach, and from now on records those that get the focus. Returns
// the number of the elements.
() => {
  const candidates = "a[href], button, input, select, textarea, summary, [tabindex]";
  const isWanted = (element) =>
    element.checkVisibility({ visibilityProperty: true }) && !element.disabled && element.tabIndex >= 0;
  globalThis.wantedFocus = [...document.querySelectorAll(candidates)].filter(isWanted);
  globalThis.recordedFocus = [];
  // A party of a picture shows the focus by its own lines.
  const lines = (element) => [...element.querySelectorAll("*")].map((part) => {
    const { stroke, strokeWidth, fill } = getComputedStyle(part);
    return `${stroke} ${strokeWidth} ${fill}`;
  }).join();
  const isPicture = (element) => element instanceof SVGElement;
  const before = new Map(wantedFocus.filter(isPicture).map((element) => [element, lines(element)]));
  addEventListener("focusin", ({ target }) => {
    const style = getComputedStyle(target);
    const box = target.getBoundingClientRect();
    const hasOutline = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    recordedFocus.push({
      element: target,
      isMarked: hasOutline || isPicture(target) && lines(target) !== before.get(target),
      isInWindow: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
    });
  });
  document.activeElement.blur();
  scrollTo(0, 0);
  return wantedFocus.length;
}
