//! Comforts of a page's script: the filter of the tasks, and the button that copies the plain text report.

use super::pages::{page, printed};
use super::tab::{Conditions, Tab};

/// Returns the names of the tasks whose rows a reader sees.
const SHOWN: &str = "[...document.getElementById(document.querySelector('input[data-filter]').dataset.filter)\
                     .tBodies[0].rows].filter((row) => row.checkVisibility()).map((row) => row.textContent)";

fn shown(tab: &mut Tab) -> Vec<String> {
    serde_json::from_value(tab.evaluate(SHOWN)).expect("texts")
}

#[test]
#[ignore = "needs chromium"]
fn the_filter_shows_the_tasks_that_have_all_its_words() {
    let page = page("large");
    let mut tab = Tab::open(&page.html, Conditions::default());
    tab.unfold();
    let all = shown(&mut tab);
    assert!(all.len() > 100, "{} rows", all.len());
    let wanted = |words: &[&str]| -> Vec<String> {
        let has_all = |text: &&String| words.iter().all(|word| text.to_lowercase().contains(word));
        all.iter().filter(has_all).cloned().collect()
    };
    tab.evaluate("document.querySelector('input[data-filter]').focus()");
    tab.type_text("KWORKER/7");
    let some = shown(&mut tab);
    assert_eq!(some, wanted(&["kworker/7"]));
    assert!(!some.is_empty() && some.len() < all.len(), "{} of {}", some.len(), all.len());
    tab.type_text(" 71");
    assert_eq!(shown(&mut tab), wanted(&["kworker/7", "71"]));
    tab.type_text(" no-such-task");
    assert_eq!(shown(&mut tab), [""; 0]);
    tab.evaluate("document.activeElement.select()");
    tab.type_text("");
    assert_eq!(shown(&mut tab), all);
    assert_eq!(tab.noise(), [""; 0]);
}

#[test]
#[ignore = "needs chromium"]
fn the_button_copies_the_text_that_the_program_prints() {
    for name in ["abba-deadlock", "linux-softlockup", "hostile"] {
        let page = page(name);
        let mut tab = Tab::open(&page.html, Conditions::default());
        tab.grant(&["clipboardReadWrite", "clipboardSanitizedWrite"]);
        tab.evaluate("(globalThis.button = document.querySelector('button[data-copy]')).focus()");
        tab.press("Enter");
        let status = "new Promise((end) => { const ask = () => { \
                      const { textContent } = document.getElementById(button.dataset.status); \
                      if (textContent) end(textContent); else requestAnimationFrame(ask); }; ask(); })";
        assert_eq!(tab.evaluate(status), "copied", "{name}");
        let copied = tab.evaluate("navigator.clipboard.readText()");
        let text = printed(&page.report);
        assert_eq!(copied.as_str().expect("text").trim_end(), text.trim_end(), "{name}");
        assert_eq!(tab.noise(), [""; 0], "{name}");
    }
}
