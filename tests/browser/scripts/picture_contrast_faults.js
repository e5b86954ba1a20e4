// Finds labels of pictures that differ too little from what is drawn under them: the accessibility checker
// looks at HTML alone. The formula is that of WCAG 2.2, for text of ordinary size.
() => {
  const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
  const isOpaque = (colour) => /^rgb/.test(colour) && (numbers(colour)[3] ?? 1) > 0.99;
  const luminance = (colour) => {
    const [red, green, blue] = numbers(colour).slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (a, b) => {
    const [dark, light] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (light + 0.05) / (dark + 0.05);
  };
  const contains = (box, x, y) => box.left <= x && x <= box.right && box.top <= y && y <= box.bottom;
  // Painted later is above, so the last shape under the label's centre counts.
  const ground = (label) => {
    const box = label.getBoundingClientRect();
    const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
    let colour = null;
    for (const shape of label.ownerSVGElement.querySelectorAll("rect, polygon, path, ellipse, circle, text")) {
      if (shape === label) break;
      if (shape.tagName === "text" || shape.closest("defs")) continue;
      const { fill } = getComputedStyle(shape);
      if (isOpaque(fill) && contains(shape.getBoundingClientRect(), x, y)) colour = fill;
    }
    for (let part = label.ownerSVGElement; part && !colour; part = part.parentElement) {
      const { backgroundColor } = getComputedStyle(part);
      if (isOpaque(backgroundColor)) colour = backgroundColor;
    }
    return colour ?? "rgb(255, 255, 255)";
  };
  const faults = [];
  for (const label of document.querySelectorAll("svg text")) {
    if (!label.checkVisibility()) continue;
    const { fill } = getComputedStyle(label);
    const found = contrast(fill, ground(label));
    if (found < 4.5) faults.push(`${JSON.stringify(label.textContent)}: ${fill} on ${ground(label)} is ${found.toFixed(2)}`);
  }
  return faults;
}
