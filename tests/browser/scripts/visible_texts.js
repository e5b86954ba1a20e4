// Returns the texts that a reader sees, without white space: a text for each piece between two tags. Controls
// that need the page's script are left out.
() => {
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const { parentElement, data } = walker.currentNode;
    if (parentElement.closest("script, style, title, desc, [data-needs-script], .skip")) continue;
    if (!parentElement.checkVisibility({ visibilityProperty: true })) continue;
    const text = data.replace(/\s+/g, "");
    if (text) texts.push(text);
  }
  return texts;
}
