// Finds links that lead nowhere or away, names that are there twice, and parties of a picture whose stack has
// no link back to them.
() => {
  const faults = [];
  const ids = new Map();
  for (const { id } of document.querySelectorAll("[id]")) ids.set(id, (ids.get(id) ?? 0) + 1);
  for (const [id, count] of ids) if (count > 1) faults.push(`#${id} is there ${count} times`);
  for (const link of document.querySelectorAll("a")) {
    const href = link.getAttribute("href") ?? "";
    if (!href.startsWith("#")) faults.push(`a link leads to ${href}`);
    else if (!document.getElementById(href.slice(1))) faults.push(`no element is called ${href}`);
  }
  for (const link of document.querySelectorAll("svg a")) {
    const node = link.closest("[id*='-node-']") ?? link.querySelector("[id*='-node-']");
    if (!node) continue;
    if (!document.querySelector(`a[href="#${CSS.escape(node.id)}"]`)) faults.push(`nothing leads back to #${node.id}`);
  }
  return faults;
}
