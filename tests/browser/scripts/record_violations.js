// Records what a page's policy refuses, before anything of the page runs.
globalThis.recordedViolations = [];
addEventListener("securitypolicyviolation", (event) => {
  recordedViolations.push(`${event.violatedDirective} refuses ${event.blockedURI} ${event.sample}`);
});
