//! A page for all readers, in light and dark: axe-core has nothing against it, and labels of pictures differ
//! enough from what is under them.

use std::fs;
use std::sync::OnceLock;

use serde_json::json;

use super::tab::{Conditions, Tab};
use super::{expect_fault, expect_no_faults, npm_package, with_markup};

fn axe() -> &'static str {
    static AXE: OnceLock<String> = OnceLock::new();
    AXE.get_or_init(|| {
        fs::read_to_string(npm_package("axe-core").join("axe.min.js"))
            .expect("the checker's script")
    })
}

fn faults(tab: &mut Tab, html: &str, dark: bool) -> Vec<String> {
    tab.load(html, Conditions { dark, ..Conditions::default() });
    tab.unfold();
    // Its value is of no use.
    tab.evaluate(&format!("{}; 0", axe()));
    let mut faults = tab.faults(include_str!("scripts/axe_faults.js"), &json!({}));
    faults.extend(tab.faults(include_str!("scripts/picture_contrast_faults.js"), &json!({})));
    let scheme = if dark { "dark" } else { "light" };
    faults.into_iter().map(|fault| format!("{scheme}: {fault}")).collect()
}

#[test]
#[ignore = "needs chromium"]
fn light_pages_pass_the_accessibility_checker() {
    expect_no_faults(|tab, page| faults(tab, &page.html, false));
}

#[test]
#[ignore = "needs chromium"]
fn dark_pages_pass_the_accessibility_checker() {
    expect_no_faults(|tab, page| faults(tab, &page.html, true));
}

#[test]
#[ignore = "needs chromium"]
fn what_some_readers_cannot_perceive_is_noticed() {
    let picture = "<svg width='90' height='30' viewBox='0 0 90 30'><rect width='90' height='30' fill='#777'/>\
                   <text x='9' y='20' fill='#888'>faint</text></svg>";
    let markup = format!("<img><button></button>{picture}");
    let mut tab = Tab::new();
    let found = faults(&mut tab, &with_markup(&markup), false);
    expect_fault(&found, "image-alt");
    expect_fault(&found, "button-name");
    expect_fault(&found, "\"faint\"");
    // The muted colour of the light scheme on the paper of the dark one.
    let html = with_markup("").replace("--muted: #a9b1ba", "--muted: #525b65");
    expect_fault(&faults(&mut tab, &html, true), "color-contrast");
}
