//! A page in a browser that runs no script: it has all that it has with one, and all of the report.

use std::collections::BTreeSet;

use nmiscope_report::text::{self, Detail};
use nmiscope_report::{Hang, Report, sanitize};
use serde_json::json;

use super::pages::page;
use super::tab::{Conditions, Tab};
use super::{expect_fault, expect_no_faults};
use crate::common::large_report::LOOP;

/// Returns the texts that a reader of the unfolded page sees, without white space and without the plain text
/// report.
fn texts(tab: &mut Tab, html: &str, scripts: bool) -> Vec<String> {
    tab.load(html, Conditions { scripts, ..Conditions::default() });
    tab.unfold();
    tab.evaluate("document.querySelector('#plain')?.replaceChildren()");
    let texts = tab.run(include_str!("scripts/visible_texts.js"), &json!({}));
    serde_json::from_value(texts).expect("texts")
}

/// Returns the texts that a reader sees only by the script, those of the report that nobody sees without it,
/// and the controls that then do nothing.
fn faults(tab: &mut Tab, html: &str, report: &Report) -> Vec<String> {
    let with = texts(tab, html, true);
    let without = texts(tab, html, false);
    let controls = "[...document.querySelectorAll('button, input')].filter((part) => part.checkVisibility()).length";
    let controls = tab.evaluate(controls);
    let all = without.concat();
    let without: BTreeSet<String> = without.into_iter().collect();
    let lost = with.iter().filter(|text| !without.contains(*text));
    let mut faults: Vec<String> = lost.map(|text| format!("only by the script: {text}")).collect();
    let is_missing = |part: &String| {
        let part: String = sanitize::line(part).split_whitespace().collect();
        !all.contains(&part)
    };
    let missing = parts(report).into_iter().filter(is_missing);
    faults.extend(missing.map(|part| format!("not of the report: {part}")));
    if controls != 0 {
        faults.push(format!("controls without a script: {controls}"));
    }
    faults
}

#[test]
#[ignore = "needs chromium"]
fn pages_have_all_of_the_report_without_the_script() {
    expect_no_faults(|tab, page| faults(tab, &page.html, &page.report));
}

#[test]
#[ignore = "needs chromium"]
fn text_that_only_the_script_shows_is_noticed() {
    let page = page("abba-deadlock");
    let html =
        page.html.replace("<h2", "<h2 hidden data-was").replace("data-needs-script", "data-was");
    let html = html.replace(
        "\"use strict\";",
        "document.querySelectorAll('h2').forEach((h) => { h.hidden = false; });",
    );
    let html = html.replace("http-equiv=", "data-was=").replace("take_second", "take_third");
    let html = html.replace("<main id=\"main\">", "<main id=\"main\"><button>x</button>");
    let found = faults(&mut Tab::new(), &html, &page.report);
    for words in
        ["only by the script", "not of the report: take_second", "controls without a script"]
    {
        expect_fault(&found, words);
    }
}

/// Returns texts of a report that a page has as they are: names, places, and lines that somebody else wrote.
fn parts(report: &Report) -> BTreeSet<String> {
    let mut parts: BTreeSet<String> = words_of_text(report).collect();
    parts.insert(report.tool.version.clone());
    parts.extend(report.warnings.iter().chain(&report.console_tail).cloned());
    for Hang { class, signature, bucket, blamed, victims, locks, .. } in &report.hangs {
        parts.extend([class.to_string(), signature.clone()]);
        parts.extend(bucket.clone());
        parts.extend([blamed, victims, locks].into_iter().flatten().cloned());
    }
    for backtrace in &report.backtraces {
        parts.extend(backtrace.tasks.iter().map(|task| task.name.clone()));
        parts.extend(backtrace.log.iter().flat_map(|log| &log.lines).map(|line| line.text.clone()));
        // Of a large guest's CPUs that are alike, a page names the first and the last, and has the registers of some.
        let cpus = if backtrace.cpus.len() > 16 { &backtrace.cpus[..2] } else { &backtrace.cpus };
        parts.extend(cpus.iter().map(|cpu| format!("cpu{}", cpu.cpu)));
        let registers = cpus.iter().filter_map(|cpu| cpu.registers.as_ref());
        parts
            .extend(registers.flat_map(|registers| [registers.rip.clone(), registers.rsp.clone()]));
    }
    parts
}

/// Returns the words of the text report that are names of functions or places in source files. Those by which the
/// stacks of a large guest's tasks differ are left out: a page shows as many of these as it has room for.
fn words_of_text(report: &Report) -> impl Iterator<Item = String> {
    let text = text::plain(report, Detail::default());
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    let is_name = |word: &String| {
        (word.contains('_') || word.contains(".rs:") || word.contains(".c:"))
            && !word.starts_with(LOOP)
    };
    words.into_iter().filter(is_name).map(|word| word.trim_matches(',').to_owned())
}
