// Returns the number of elements of each name, and of attributes of each name.
() => {
  const counts = {};
  const count = (name) => { counts[name] = (counts[name] ?? 0) + 1; };
  for (const element of document.querySelectorAll("*")) {
    count(`<${element.tagName.toLowerCase()}>`);
    for (const { name } of element.attributes) count(`${element.tagName.toLowerCase()} ${name}=`);
  }
  return counts;
}
