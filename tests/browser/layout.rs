//! A page at the widths of a telephone and of a desktop: it does not scroll sideways, nothing is cut, and
//! labels of pictures are legible and do not overlap.

use serde_json::json;

use super::tab::{Conditions, NARROW, Tab, WIDE};
use super::{expect_fault, expect_no_faults, with_markup};

/// Smallest text of a picture on a screen, in CSS pixels.
const SMALLEST: f64 = 10.9;

impl Tab {
    /// Returns the faults of the layout. `smallest` is the size that labels of pictures may have, in CSS pixels.
    pub fn layout_faults(&mut self, smallest: f64) -> Vec<String> {
        self.faults(include_str!("scripts/layout_faults.js"), &json!({"smallest": smallest}))
    }
}

fn faults(tab: &mut Tab, html: &str, width: u32) -> Vec<String> {
    tab.load(html, Conditions { width, ..Conditions::default() });
    let mut faults = tab.layout_faults(SMALLEST);
    tab.unfold();
    faults.extend(tab.layout_faults(SMALLEST));
    faults.sort();
    faults.dedup();
    faults.into_iter().map(|fault| format!("{width}: {fault}")).collect()
}

#[test]
#[ignore = "needs chromium"]
fn pages_fit_a_telephone() {
    expect_no_faults(|tab, page| faults(tab, &page.html, NARROW));
}

#[test]
#[ignore = "needs chromium"]
fn pages_fit_a_desktop() {
    expect_no_faults(|tab, page| faults(tab, &page.html, WIDE));
}

#[test]
#[ignore = "needs chromium"]
fn text_that_is_cut_small_or_overlaps_is_noticed() {
    let mut tab = Tab::new();
    let found =
        faults(&mut tab, &with_markup("<svg class='box' width='999' height='9'></svg>"), NARROW);
    expect_fault(&found, "the page is");
    let picture = "<svg width='200' height='60' viewBox='0 0 200 60'>\
                   <g id='x-node-0'><rect x='5' y='5' width='50' height='20'/><text x='7' y='20'>long words</text></g>\
                   <text x='9' y='22'>beside</text><text x='9' y='50' font-size='6'>tiny</text>\
                   <text x='180' y='50'>sticks out</text>\
                   <path class='x-line' d='M100 5v50'/><text x='90' y='40'>crossed</text></svg>";
    let html = with_markup(picture).replace("<style>", "<style>.x-line { stroke: red; }");
    let html = html.replace("http-equiv=", "data-was=");
    let found = faults(&mut tab, &html, WIDE);
    for words in [
        "leaves its shape",
        "overlaps",
        "lies on",
        "has 6.0 pixels",
        "leaves its picture",
        "crossed",
    ] {
        expect_fault(&found, words);
    }
    let html = with_markup("<div class='cut'>a word that is cut</div>")
        .replace("<style>", "<style>.cut { width: 3rem; white-space: nowrap; overflow: hidden; }");
    // A changed style is not the one that the policy names.
    let html = html.replace("http-equiv=", "data-was=");
    expect_fault(&faults(&mut tab, &html, WIDE), "is cut");
}
