//! A page without a mouse: the Tab key reaches every control in order, and shows where it is.

use serde_json::json;

use super::tab::{Conditions, Tab};
use super::{expect_fault, expect_no_faults, pages, with_markup};

impl Tab {
    /// Presses Tab until every control has had the focus, and returns the faults on the way.
    fn tabbing_faults(&mut self) -> Vec<String> {
        let script = include_str!("scripts/tabbing_faults.js");
        let count = self.run(include_str!("scripts/prepare_tabbing.js"), &json!({}));
        let count = count.as_u64().expect("a count");
        assert!(count > 0, "a page without a control");
        for _ in 0..count {
            self.press("Tab");
        }
        // Areas that scroll get the focus too.
        for _ in 0..count {
            if self.run(script, &json!({"isDone": true})) == true {
                break;
            }
            self.press("Tab");
        }
        self.faults(script, &json!({"isDone": false}))
    }
}

fn faults(tab: &mut Tab, html: &str) -> Vec<String> {
    tab.load(html, Conditions::default());
    let mut faults = tab.tabbing_faults();
    tab.unfold();
    faults.extend(tab.tabbing_faults());
    faults
}

#[test]
#[ignore = "needs chromium"]
fn the_tab_key_reaches_every_control_in_order_and_with_an_outline() {
    expect_no_faults(|tab, page| faults(tab, &page.html));
}

#[test]
#[ignore = "needs chromium"]
fn controls_out_of_order_or_without_an_outline_are_noticed() {
    let mut tab = Tab::new();
    expect_fault(
        &faults(&mut tab, &with_markup("<button tabindex='3'>x</button>")),
        "jumps the queue",
    );
    let html = pages::page("abba-deadlock").html.replace("outline: 3px", "outline: 0px");
    expect_fault(&faults(&mut tab, &html), "has no visible outline");
}

#[test]
#[ignore = "needs chromium"]
fn enter_opens_and_closes_each_folded_part() {
    expect_no_faults(|tab, page| {
        tab.load(&page.html, Conditions::default());
        let mut faults = Vec::new();
        let count =
            tab.evaluate("(globalThis.folds = [...document.querySelectorAll('details')]).length");
        // Those around it first, as a reader would.
        for index in 0..count.as_u64().expect("a count").min(20) {
            let fold = format!("globalThis.folds[{index}]");
            tab.evaluate(&format!(
                "for (let part = {fold}.parentElement; part; part = part.parentElement) \
                 if (part instanceof HTMLDetailsElement) part.open = true; \
                 {fold}.querySelector('summary').focus()"
            ));
            let mut states = vec![tab.evaluate(&format!("{fold}.open"))];
            for _ in 0..2 {
                tab.press("Enter");
                states.push(tab.evaluate(&format!("{fold}.open")));
            }
            if states[0] == states[1] || states[1] == states[2] {
                faults.push(format!("fold {index} is open or not: {states:?}"));
            }
        }
        faults.extend(tab.noise());
        faults
    });
}
