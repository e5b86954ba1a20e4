//! Reports whose every free string has text added that a page must not take for markup.

use std::collections::BTreeSet;

use nmiscope_report::Report;
use serde_json::Value;

/// Text that would be markup, the end of the elements around it, or of an attribute; with a control
/// character and a mark of the writing direction.
pub const HOSTILE: &str = "</script></style></title></pre><script>alert(1)</script><img src=x onerror=alert(2)>\"'>&lt;`\
     \u{1b}[31m\u{202e}";

/// Text of about the same length that is harmless anywhere.
pub const HARMLESS: &str =
    " and some words of a harmless kind that take about as much room on a page as others do";

/// Returns the report with `text` added to each string that the format does not choose itself, such as a
/// kind. Equal strings stay equal, so that names still refer to the same parties.
pub fn with_text_everywhere(report: &Report, text: &str) -> Report {
    let mut report = report.clone();
    // So that there is one to add to.
    report.console_tail.push("console".into());
    report.warnings.push("warning".into());
    let whole = serde_json::to_value(report).expect("JSON");
    let mut paths = BTreeSet::new();
    collect(&whole, "", &mut paths);
    let is_free = |path: &String| {
        let mut changed = whole.clone();
        add(&mut changed, "", &BTreeSet::from([path.clone()]), HARMLESS);
        serde_json::from_value::<Report>(changed).is_ok()
    };
    let free: BTreeSet<String> = paths.into_iter().filter(is_free).collect();
    for wanted in
        ["/summary", "/console_tail/", "/warnings/", "/tool/version", "/image/command_line"]
    {
        assert!(free.contains(wanted), "{wanted} is not among {free:?}");
    }
    let mut changed = whole;
    add(&mut changed, "", &free, text);
    serde_json::from_value(changed).expect("a report")
}

/// Collects the paths of strings: the names of members, and nothing for the index of an item.
fn collect(value: &Value, path: &str, paths: &mut BTreeSet<String>) {
    match value {
        Value::String(_) => {
            paths.insert(path.to_owned());
        }
        Value::Array(items) => {
            items.iter().for_each(|item| collect(item, &format!("{path}/"), paths))
        }
        Value::Object(members) => {
            for (name, member) in members {
                collect(member, &format!("{path}/{name}"), paths);
            }
        }
        _ => {}
    }
}

/// Adds text to the strings at some paths.
fn add(value: &mut Value, path: &str, paths: &BTreeSet<String>, text: &str) {
    match value {
        Value::String(string) if paths.contains(path) => string.push_str(text),
        Value::Array(items) => {
            items.iter_mut().for_each(|item| add(item, &format!("{path}/"), paths, text));
        }
        Value::Object(members) => {
            for (name, member) in members {
                add(member, &format!("{path}/{name}"), paths, text);
            }
        }
        _ => {}
    }
}
