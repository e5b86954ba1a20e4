// Runs the accessibility checker, which is in the page already.
async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations.flatMap(({ id, impact, nodes }) =>
    nodes.slice(0, 3).map(({ target, failureSummary }) => `${impact} ${id}: ${target} ${failureSummary}`));
}
