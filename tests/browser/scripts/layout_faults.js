// Finds what does not fit at the window's width: parts that make the page scroll sideways, text that is cut
// by an element around it, and labels of pictures that overlap or are too small.
({ smallest }) => {
  const faults = [];
  const name = (element) => {
    const text = element.textContent.trim().replace(/\s+/g, " ").slice(0, 60);
    const of = element.closest("[id]");
    return `<${element.tagName.toLowerCase()}>${of ? ` in #${of.id}` : ""} ${JSON.stringify(text)}`;
  };
  const isVisible = (element) => element.checkVisibility({ visibilityProperty: true });

  // The page itself.
  const root = document.documentElement;
  if (root.scrollWidth > innerWidth) {
    faults.push(`the page is ${root.scrollWidth} pixels wide in a window of ${innerWidth}`);
    const wide = [...document.body.querySelectorAll("*")].filter((element) =>
      !element.closest(".scroll, svg") && isVisible(element) && element.getBoundingClientRect().right > innerWidth + 1);
    faults.push(...wide.slice(-3).map((element) => `${name(element)} sticks out`));
  }

  // An element that hides what overflows it, and that no key scrolls.
  for (const element of document.body.querySelectorAll("*")) {
    const { overflowX, overflowY, textOverflow } = getComputedStyle(element);
    const isWide = element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 0;
    const isHigh = element.scrollHeight > element.clientHeight + 1 && element.clientHeight > 0;
    if (element instanceof SVGElement || element instanceof HTMLInputElement || !isVisible(element)) continue;
    if (isWide && ["hidden", "clip"].includes(overflowX) || isHigh && ["hidden", "clip"].includes(overflowY)) {
      faults.push(`${name(element)} is cut (${textOverflow})`);
    }
    if (isWide && ["auto", "scroll"].includes(overflowX) && element.tabIndex < 0) {
      faults.push(`${name(element)} scrolls, and not by keyboard`);
    }
  }

  // Pictures.
  const inset = (box, by) => ({
    left: box.left + by, right: box.right - by, top: box.top + by, bottom: box.bottom - by,
  });
  const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const contains = (a, b) => a.left <= b.left && a.right >= b.right && a.top <= b.top && a.bottom >= b.bottom;
  for (const svg of document.querySelectorAll("svg")) {
    if (!isVisible(svg)) continue;
    const frame = inset(svg.getBoundingClientRect(), -1);
    const labels = [...svg.querySelectorAll("text")].filter(isVisible);
    const boxes = labels.map((label) => inset(label.getBoundingClientRect(), 1.5));
    labels.forEach((label, index) => {
      if (!contains(frame, boxes[index])) faults.push(`${name(label)} leaves its picture`);
      const size = parseFloat(getComputedStyle(label).fontSize) * label.getScreenCTM().a;
      if (size < smallest) faults.push(`${name(label)} has ${size.toFixed(1)} pixels`);
      for (let other = index + 1; other < labels.length; other += 1) {
        if (overlap(boxes[index], boxes[other])) faults.push(`${name(label)} overlaps ${name(labels[other])}`);
      }
    });
    // Upright lines, on which a label is legible only with a ground or a halo of its own.
    const lines = [...svg.querySelectorAll("path, line")].filter((line) => {
      const { width, height } = line.getBoundingClientRect();
      return width <= 4 && height >= 20 && getComputedStyle(line).stroke !== "none" && isVisible(line);
    });
    const grounds = [...svg.querySelectorAll("rect")].filter((rect) => getComputedStyle(rect).fill !== "none");
    labels.forEach((label, index) => {
      const { paintOrder, stroke } = getComputedStyle(label);
      if (paintOrder.startsWith("stroke") && stroke !== "none") return;
      for (const line of lines) {
        const hasGround = grounds.some((rect) =>
          contains(inset(rect.getBoundingClientRect(), -1), boxes[index]) &&
          line.compareDocumentPosition(rect) & Node.DOCUMENT_POSITION_FOLLOWING);
        if (!hasGround && overlap(line.getBoundingClientRect(), boxes[index])) {
          faults.push(`${name(label)} is crossed by a line`);
        }
      }
    });
    const isShape = "rect, path, polygon, ellipse, circle";
    for (const node of svg.querySelectorAll("[id*='-node-']")) {
      const shapes = [...node.querySelectorAll(isShape)].map((shape) => shape.getBoundingClientRect());
      const shape = {
        left: Math.min(...shapes.map((box) => box.left)), right: Math.max(...shapes.map((box) => box.right)),
        top: Math.min(...shapes.map((box) => box.top)), bottom: Math.max(...shapes.map((box) => box.bottom)),
      };
      labels.forEach((label, index) => {
        if (node.contains(label)) {
          if (!contains(shape, boxes[index])) faults.push(`${name(label)} leaves its shape`);
        } else if (overlap(shape, boxes[index])) {
          faults.push(`${name(label)} lies on ${name(node)}`);
        }
      });
    }
  }
  return faults.slice(0, 40);
}
