//! Links inside a page: each leads to something that is then visible, and parties of the wait graph to their
//! stacks and back.

use serde_json::json;

use super::pages::page;
use super::tab::{Conditions, Tab};
use super::{expect_fault, expect_no_faults, with_markup};

fn faults(tab: &mut Tab, html: &str) -> Vec<String> {
    tab.load(html, Conditions::default());
    tab.faults(include_str!("scripts/link_faults.js"), &json!({}))
}

#[test]
#[ignore = "needs chromium"]
fn links_lead_to_parts_of_the_page_and_back() {
    expect_no_faults(|tab, page| faults(tab, &page.html));
}

#[test]
#[ignore = "needs chromium"]
fn links_that_lead_nowhere_or_away_are_noticed() {
    let mut tab = Tab::new();
    let found = faults(
        &mut tab,
        &with_markup("<a href='#nowhere'>x</a><a href='https://example.invalid/'>x</a>"),
    );
    expect_fault(&found, "no element is called #nowhere");
    expect_fault(&found, "a link leads to https://example.invalid/");
    expect_fault(&faults(&mut tab, &with_markup("<p id='main'>")), "#main is there 2 times");
    let one_way = "<svg><a href='#main' id='x-node-7'><text>x</text></a></svg>";
    expect_fault(&faults(&mut tab, &with_markup(one_way)), "nothing leads back to #x-node-7");
}

#[test]
#[ignore = "needs chromium"]
fn a_link_of_the_wait_graph_shows_the_stack_of_its_party() {
    for name in ["abba-deadlock", "mutex-deadlock", "large"] {
        let mut tab = Tab::open(&page(name).html, Conditions::default());
        let count =
            tab.evaluate("(globalThis.nodes = [...document.querySelectorAll('svg a')]).length");
        let count = count.as_u64().expect("a count");
        assert!(count >= 2, "{name}: {count} links");
        for index in 0..count.min(20) {
            tab.evaluate(
                "document.querySelectorAll('details').forEach((part) => { part.open = false; })",
            );
            tab.evaluate(&format!("nodes[{index}].focus()"));
            tab.press("Enter");
            let is_shown = "(() => { \
                const target = document.getElementById(decodeURIComponent(location.hash.slice(1))); \
                const box = target.getBoundingClientRect(); \
                return target.checkVisibility() && box.bottom > 0 && box.top < innerHeight; })()";
            // The page follows a link after the key.
            let followed = format!(
                "new Promise((end) => {{ const ask = () => {{ \
                 if (location.hash === nodes[{index}].getAttribute('href')) setTimeout(end); \
                 else requestAnimationFrame(ask); }}; ask(); }})"
            );
            tab.evaluate(&followed);
            assert_eq!(tab.evaluate(is_shown), true, "{name}: {}", tab.evaluate("location.hash"));
        }
        assert_eq!(tab.noise(), [""; 0], "{name}");
    }
}
