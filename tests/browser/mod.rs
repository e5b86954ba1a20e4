//! Pages in a browser: Debian's Chromium without a window, driven through its debugging protocol.
//!
//! `pages` has the pages under test, `chromium`, `connection` and `tab` the browser; every other module is a
//! subject, with its checks and tests. A check returns a list of faults, and has a test that it finds one.
//!
//! Needs Debian's `chromium` and `poppler-utils`, and the programs of npm that `packages.sh` installs.

mod accessibility;
mod chromium;
mod comforts;
mod connection;
mod hostile;
mod keyboard;
mod layout;
mod links;
mod markup;
mod pages;
mod paper;
mod quiet;
mod screenshots;
mod tab;
mod without_script;

use std::path::PathBuf;

use pages::Page;
use tab::Tab;

/// Checks all pages, one after the other in the same tab, and fails with the faults of all of them.
#[track_caller]
fn expect_no_faults(check: impl Fn(&mut Tab, &Page) -> Vec<String>) {
    let mut tab = Tab::new();
    let mut all = Vec::new();
    for page in pages::all() {
        let faults = check(&mut tab, page);
        all.extend(faults.into_iter().map(|fault| format!("{}: {fault}", page.name)));
    }
    assert!(all.is_empty(), "{} faults:\n{}", all.len(), all.join("\n"));
}

/// Asserts that a check has found a fault with some words in it.
#[track_caller]
fn expect_fault(faults: &[String], words: &str) {
    assert!(faults.iter().any(|fault| fault.contains(words)), "{words:?} is not in {faults:#?}");
}

/// Returns the page of a report, with markup added at the end of its main part.
fn with_markup(markup: &str) -> String {
    let html = &pages::page("abba-deadlock").html;
    assert_eq!(html.matches("</main>").count(), 1, "the page's frame has changed");
    html.replace("</main>", &format!("{markup}</main>"))
}

/// Returns the path of a package of npm.
fn npm_package(name: &str) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let path = root.join(target).join("browser/node_modules").join(name);
    assert!(path.exists(), "{} is missing: tests/browser/packages.sh installs it", path.display());
    path
}
