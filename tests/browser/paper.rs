//! A page on paper: everything is unfolded, and no text is cut.
//!
//! The judge is pdftotext of Debian's poppler-utils, which reads the PDF that the browser prints.

use std::fs;
use std::process::Command;

use serde_json::json;

use super::pages::page;
use super::tab::{Conditions, Tab};
use super::{expect_fault, expect_no_faults, with_markup};

/// Width of a sheet of A4 between the browser's margins, in CSS pixels: 8.27 in less twice 0.4 in, of 96
/// each.
const SHEET: u32 = 717;

/// Returns the text of a printed page, without white space.
fn printed(tab: &mut Tab) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("page.pdf");
    fs::write(&file, tab.pdf()).expect("a file");
    // In the order in which it was drawn.
    let output = Command::new("pdftotext").arg("-raw").arg(&file).arg("-").output();
    let output = output.expect("pdftotext of poppler-utils can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.split_whitespace().collect()
}

/// Returns the faults of a page that is printed as it was opened.
fn faults(tab: &mut Tab, html: &str, scripts: bool) -> Vec<String> {
    tab.load(html, Conditions { scripts, ..Conditions::default() });
    let printed = printed(tab);
    tab.load(html, Conditions { width: SHEET, paper: true, ..Conditions::default() });
    tab.unfold();
    let texts = tab.run(include_str!("scripts/visible_texts.js"), &json!({}));
    let texts: Vec<String> = serde_json::from_value(texts).expect("texts");
    assert!(texts.len() > 20, "{texts:?}");
    let missing = texts.iter().filter(|text| !printed.contains(text.as_str()));
    let mut faults: Vec<String> = missing.map(|text| format!("not printed: {text}")).collect();
    // Paper has no smallest size of its own: pictures are fitted to the sheet.
    faults.extend(tab.layout_faults(1.0));
    faults
}

#[test]
#[ignore = "needs chromium"]
fn paper_has_all_text_unfolded_and_uncut() {
    expect_no_faults(|tab, page| faults(tab, &page.html, true));
}

#[test]
#[ignore = "needs chromium"]
fn paper_has_all_text_without_the_script_too() {
    let mut tab = Tab::new();
    for name in ["abba-deadlock", "linux-rwsem"] {
        assert_eq!(faults(&mut tab, &page(name).html, false), [""; 0], "{name}");
    }
}

#[test]
#[ignore = "needs chromium"]
fn text_that_is_not_printed_is_noticed() {
    let style = "<style>.cut { position: absolute; left: 2000px } @media print { .gone { visibility: visible } }";
    let html = with_markup("<p class='cut'>outside of the sheet</p>").replacen("<style>", style, 1);
    let html = html.replace("http-equiv=", "data-was=");
    expect_fault(&faults(&mut Tab::new(), &html, true), "not printed: outsideofthesheet");
}
