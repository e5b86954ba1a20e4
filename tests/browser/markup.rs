//! The elements of a page: valid HTML, and none that a guest's text has made.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::hostile::{HARMLESS, HOSTILE, with_text_everywhere};
use super::pages::{self, Page};
use super::tab::{Conditions, Tab};
use super::{expect_fault, npm_package, with_markup};

/// Returns what the validator says of pages.
fn validated<'a>(pages: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, html) in pages {
        fs::write(directory.path().join(format!("{name}.html")), html).expect("a file");
    }
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/html-validate.json");
    let results = directory.path().join("results");
    let output = Command::new("node")
        .arg(npm_package("html-validate").join("bin/html-validate.mjs"))
        .arg("--config")
        .args([&config, directory.path()])
        // Not standard output, which it may leave before all is written.
        .arg(format!("--formatter=json={}", results.display()))
        .output()
        .expect("node can be started: packages.sh in tests/browser needs it too");
    let said = String::from_utf8_lossy(&output.stderr);
    let results = fs::read(&results).unwrap_or_else(|error| panic!("{error}: {said}"));
    let results: serde_json::Value = serde_json::from_slice(&results).expect("JSON");
    let files = results.as_array().expect("results of files");
    let faults = files.iter().flat_map(|file| {
        let name = file["filePath"].as_str().and_then(|path| path.rsplit('/').next());
        let messages = file["messages"].as_array().expect("messages");
        messages.iter().map(move |message| {
            let [rule, text, line] = ["ruleId", "message", "line"].map(|field| &message[field]);
            format!("{}:{line}: {rule}: {text}", name.unwrap_or_default())
        })
    });
    let faults: Vec<String> = faults.collect();
    assert_eq!(output.status.success(), faults.is_empty(), "{said}");
    faults
}

#[test]
#[ignore = "needs chromium"]
fn pages_are_valid_html() {
    let pages = pages::all().iter().map(|page| (page.name.as_str(), page.html.as_str()));
    let faults = validated(pages);
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
#[ignore = "needs chromium"]
fn markup_that_is_not_valid_is_noticed() {
    let html = with_markup("<p><div>x</p></section><img><a href=x y=1 y=2>x</a>");
    let found = validated([("page", html.as_str())]);
    for words in ["close-order", "no-dup-attr", "element-required-attributes"] {
        expect_fault(&found, words);
    }
}

fn counts(tab: &mut Tab, html: &str) -> BTreeMap<String, u64> {
    tab.load(html, Conditions::default());
    let counts = tab.run(include_str!("scripts/count_elements.js"), &json!({}));
    serde_json::from_value(counts).expect("counts")
}

/// The page of hostile text differs from that of harmless text in no element and no attribute.
#[test]
#[ignore = "needs chromium"]
fn text_of_a_guest_makes_no_element_and_no_attribute() {
    let mut tab = Tab::new();
    for name in [
        "abba-deadlock",
        "mutex-deadlock",
        "linux-softlockup",
        "null-deref",
        "boot-stall",
        "silent",
    ] {
        let report = &pages::page(name).report;
        let [hostile, harmless] =
            [HOSTILE, HARMLESS].map(|text| Page::of(name, with_text_everywhere(report, text)));
        let found = counts(&mut tab, &hostile.html);
        assert!(found["<h1>"] == 1 && found["<script>"] == 1, "{name}: {found:?}");
        assert_eq!(found, counts(&mut tab, &harmless.html), "{name}");
        let raw = |c: char| c == '\u{1b}' || c == '\u{202e}';
        assert!(!hostile.html.contains(raw), "{name} has a raw control character");
    }
}

#[test]
#[ignore = "needs chromium"]
fn text_that_became_an_element_changes_the_counts() {
    let mut tab = Tab::new();
    assert_ne!(
        counts(&mut tab, &with_markup("&lt;img&gt;")),
        counts(&mut tab, &with_markup("<img alt=''>"))
    );
}
