//! Pages of stored reports, read back by a scanner of tags: what is an element, what leads where, what is text.

#[path = "../../tests/common/large_report.rs"]
#[allow(unreachable_pub, missing_docs, dead_code, reason = "a module of the program's tests")]
mod large_report;

use std::collections::{BTreeSet, HashMap, HashSet};

use nmiscope_report::html::{self, Sources};
use nmiscope_report::redact::{Pseudonyms, Redact as _};
use nmiscope_report::text::{self, Detail};
use nmiscope_report::{Report, Trigger, markdown};
use serde_json::Value;

const STORED: [&str; 9] = [
    include_str!("../../tests/offline/cores/abba-deadlock.json"),
    include_str!("../../tests/offline/cores/corrupt-stack.json"),
    include_str!("../../tests/offline/cores/deep-stack.json"),
    include_str!("../../tests/offline/cores/ipi-wait.json"),
    include_str!("../../tests/offline/cores/mutex-deadlock.json"),
    include_str!("../../tests/offline/cores/nmi-stuck.json"),
    include_str!("../../tests/offline/cores/null-deref.json"),
    include_str!("../../tests/offline/linux/61/softlockup.json"),
    include_str!("../../tests/offline/linux/61/rwsem.json"),
];

const HOSTILE: &str = "</script><script>alert(1)</script>\"'>&";
/// Text of as many characters, so that nothing is cut elsewhere.
const HARMLESS: &str = "harmless words that are just as long..";

fn stored() -> Vec<Report> {
    STORED.iter().map(|text| serde_json::from_str(text).expect("a report")).collect()
}

fn page(report: &Report) -> String {
    html::report(report, &Sources::default())
}

/// A start tag: its name and its attributes.
type Tag<'a> = (&'a str, Vec<(&'a str, String)>);

/// Returns the start tags of a page. The texts of `<style>` and `<script>` have none.
fn tags(page: &str) -> Vec<Tag<'_>> {
    let mut tags = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let is_start = rest.starts_with(|c: char| c.is_ascii_alphabetic());
        let end = tag_end(rest);
        if !is_start {
            let is_known = rest.starts_with(['/', '!']);
            assert!(is_known, "a bare angle bracket: {:?}", rest.get(..40));
            rest = &rest[end..];
            continue;
        }
        let tag = rest[..end].trim_end_matches('/');
        rest = &rest[end + 1..];
        let (name, attributes) = tag.split_once(char::is_whitespace).unwrap_or((tag, ""));
        tags.push((name, attributes_of(attributes)));
        if matches!(name, "style" | "script") {
            rest = &rest[rest.find("</").expect("an end tag")..];
        }
    }
    tags
}

/// Returns the index of the bracket that ends a tag.
fn tag_end(tag: &str) -> usize {
    let mut quoted = false;
    let end = tag.bytes().position(|byte| {
        quoted ^= byte == b'"';
        byte == b'>' && !quoted
    });
    end.expect("the end of a tag")
}

fn attributes_of(text: &str) -> Vec<(&str, String)> {
    let mut attributes = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let name = &rest[..end];
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-:".contains(&b)), "{text}");
        rest = &rest[end..];
        let mut value = String::new();
        if let Some(quoted) = rest.strip_prefix("=\"") {
            let (text, after) = quoted.split_once('"').expect("a quoted value");
            value = unescape(text);
            rest = after;
        }
        attributes.push((name, value));
        rest = rest.trim_start();
    }
    attributes
}

fn unescape(text: &str) -> String {
    let decimal = [("&#60;", "<"), ("&#62;", ">"), ("&#34;", "\""), ("&#39;", "'"), ("&#38;", "&")];
    decimal.iter().fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

/// Returns a report in which every string that the format does not choose itself is `text`.
fn with_strings(report: &Report, text: &str) -> Report {
    fn replace(value: &mut Value, name: &str, text: &str) {
        const CHOSEN: [&str; 13] = [
            "kind",
            "fact",
            "class",
            "state",
            "activity",
            "lock",
            "availability",
            "found_by",
            "source",
            "handler",
            "how",
            "cause",
            "memory",
        ];
        match value {
            Value::String(string) if !CHOSEN.contains(&name) => *string = text.to_owned(),
            Value::Array(items) => items.iter_mut().for_each(|item| replace(item, name, text)),
            Value::Object(members) => {
                members.iter_mut().for_each(|(name, member)| replace(member, name, text));
            }
            _ => {}
        }
    }
    let mut value = serde_json::to_value(report).expect("JSON");
    replace(&mut value, "", text);
    serde_json::from_value(value).expect("a report")
}

#[test]
fn hostile_text_makes_no_element_and_no_attribute() {
    let made = |report: &Report, text| {
        let page = page(&with_strings(report, text));
        let names = |(tag, attributes): Tag<'_>| {
            let names = attributes.iter().map(|(name, _)| (*name).to_owned());
            (tag.to_owned(), names.collect::<Vec<_>>())
        };
        tags(&page).into_iter().map(names).collect::<Vec<_>>()
    };
    for report in stored() {
        let (hostile, harmless) = (made(&report, HOSTILE), made(&report, HARMLESS));
        assert_eq!(hostile.len(), harmless.len(), "{}", report.summary);
        assert_eq!(hostile, harmless, "{}", report.summary);
        assert_eq!(hostile.iter().filter(|(name, _)| name == "script").count(), 1);
    }
}

#[test]
fn pages_have_no_style_no_handler_and_no_foreign_address() {
    for report in stored() {
        let page = page(&with_strings(&report, "javascript:alert(1)"));
        for (tag, attributes) in tags(&page) {
            for (name, value) in attributes {
                let is_own = name != "href" || value.starts_with('#');
                let is_inert = !name.starts_with("on") && !matches!(name, "style" | "src");
                assert!(is_own && is_inert, "<{tag} {name}={value:?}>");
            }
        }
    }
}

#[test]
fn links_lead_to_parts_of_the_page_and_back() {
    for report in stored().into_iter().chain([large_report::large_report()]) {
        let page = page(&report);
        let tags = tags(&page);
        let all = |wanted: &str| {
            let attributes = tags.iter().flat_map(|(_, attributes)| attributes);
            attributes.filter(|(name, _)| *name == wanted).map(|(_, value)| value.clone()).collect()
        };
        let ids: Vec<String> = all("id");
        let known: HashSet<&String> = ids.iter().collect();
        assert_eq!(known.len(), ids.len(), "an id is there twice");
        let links: Vec<String> = all("href");
        for link in &links {
            assert!(known.contains(&link[1..].to_owned()), "{link}");
        }
        let described: Vec<String> =
            ["aria-labelledby", "for", "data-filter", "data-copy", "data-status"]
                .into_iter()
                .flat_map(all)
                .flat_map(|ids: String| ids.split(' ').map(str::to_owned).collect::<Vec<_>>())
                .collect();
        for id in described {
            assert!(known.contains(&id), "{id}");
        }
        // A box is a link where it has a stack, which leads back to the box.
        let boxes = tags.windows(2).filter_map(|pair| {
            let id = pair[0].1.iter().find(|(name, _)| *name == "id").map(|(_, id)| id)?;
            (pair[0].0 == "g" && id.contains("-node-") && pair[1].0 == "a").then_some(id)
        });
        for id in boxes {
            assert!(links.contains(&format!("#{id}")), "nothing leads back to {id}");
        }
    }
}

#[test]
fn the_plain_text_of_a_page_is_the_text_report() {
    for report in stored() {
        let page = page(&report);
        let plain = page.split_once("<pre id=\"plain\">").expect("the text").1;
        let plain = unescape(plain.split_once("</pre>").expect("its end").0);
        let text = text::plain(&report, Detail::Folded);
        assert!(!text.contains('\x1b'));
        // A hundred functions of a stack may be too many.
        if text.len() <= 24 << 10 {
            assert!(plain == text, "{plain}");
        } else {
            let note = "... cut for the size of the page: nmiscope report prints all of it\n";
            let beginning = plain.strip_suffix(note).expect("a note of what is left out");
            assert!(text.starts_with(beginning) && beginning.len() > 23 << 10);
        }
    }
}

/// Returns the parts of a page in which boxes of vCPUs begin, with the words of their role.
fn roles(page: &str) -> Vec<(String, String)> {
    let boxes = page.split("<details class=\"box party ").skip(1);
    boxes
        .map(|text| {
            let id = text.split_once("id=\"").expect("an id").1.split_once('"').expect("its end").0;
            let head = text.split_once("</summary>").expect("a summary").0;
            let role = head
                .split_once("class=\"role\">")
                .map_or("", |(_, rest)| rest.split_once('<').expect("its end").0);
            (id.to_owned(), role.to_owned())
        })
        .collect()
}

/// The guest was seen on request, in a large backtrace, before it hung.
#[test]
fn the_backtrace_of_the_hang_has_room_before_earlier_ones() {
    let hung = large_report::large_report();
    let mut report = hung.clone();
    let mut earlier = hung.backtraces[0].clone();
    earlier.trigger = Trigger::Timer;
    report.backtraces.insert(0, earlier);
    report.hangs[0].backtrace = Some(1);
    let page = page(&report);
    let blamed: Vec<(String, String)> =
        roles(&page).into_iter().filter(|(_, role)| role == "blamed").collect();
    let ids: Vec<&str> = blamed.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["b1-party-0", "b1-party-1"]);
    let (_, box_of_blamed) = page.split_once("id=\"b1-party-0\"").expect("the box");
    let (box_of_blamed, _) =
        box_of_blamed.split_once("<details class=\"box").expect("the next box");
    assert!(box_of_blamed.contains("take_second") && !box_of_blamed.contains("left out"));
    assert!(page.contains("id=\"b1-past\"") && !page.contains("id=\"b0-past\""));
    assert_eq!(
        page.matches("The last minute of each vCPU before this backtrace is left out").count(),
        1
    );
}

/// A vCPU that panicked comes first where nothing hung, on the page and in a ticket.
#[test]
fn the_vcpu_that_panicked_comes_first() {
    let text = include_str!("../../tests/offline/linux/61/panic.json");
    let report: Report = serde_json::from_str(text).expect("a report");
    assert_eq!(report.outcome.failed_cpu(), Some(3));
    let page = page(&report);
    assert_eq!(roles(&page)[0], ("b0-party-0".to_owned(), "failed".to_owned()));
    let ticket = markdown::ticket(&report);
    let (_, stacks) = ticket.split_once("**Stacks:**").expect("stacks");
    let first = stacks.lines().find(|line| line.starts_with("cpu")).expect("a vCPU");
    assert!(first.starts_with("cpu3 "), "{stacks}");
}

#[test]
fn equal_reports_give_equal_pages() {
    for report in stored().into_iter().chain([large_report::large_report()]) {
        assert_eq!(page(&report), page(&report.clone()));
        assert_eq!(markdown::ticket(&report), markdown::ticket(&report.clone()));
    }
}

#[test]
fn the_page_of_a_large_guest_is_small_and_has_all_tasks() {
    let report = large_report::large_report();
    let page = page(&report);
    let rows = tags(&page).iter().filter(|(name, _)| *name == "tr").count();
    assert!(rows > large_report::TASKS as usize, "{rows} rows");
    assert!(page.len() < 300_000, "{} bytes", page.len());
}

#[test]
fn a_page_stays_small_whatever_its_report_holds() {
    let mut report = large_report::large_report();
    let long = "x".repeat(5000);
    for (number, task) in report.backtraces[0].tasks.iter_mut().enumerate() {
        for frame in task.host_stack.iter_mut().flat_map(|stack| &mut stack.frames) {
            frame.address = format!("{number:016x}");
        }
    }
    report.console_tail = vec![long.clone(); 1000];
    report.warnings = (0..10_000).map(|number| format!("warning {number}")).collect();
    let (backtrace, hang) = (report.backtraces[0].clone(), report.hangs[0].clone());
    report.backtraces = vec![backtrace; 40];
    report.hangs = vec![hang; 300];
    let page = page(&report);
    for sentence in ["more backtraces", "left out", "more thing"] {
        assert!(page.contains(sentence), "{sentence}");
    }
    assert!(page.len() < 3 << 20, "{} bytes", page.len());
    assert!(markdown::ticket(&report).len() < 64 << 10);
}

#[test]
fn a_redacted_page_says_so_and_wants_no_source_lines() {
    let mut report = stored().remove(0);
    assert!(!Sources::wanted(&report).is_empty());
    report.redact(&mut Pseudonyms::default());
    assert!(page(&report).contains("<strong>redacted</strong>: without log and console"));
    assert!(Sources::wanted(&report).is_empty());
}

#[test]
fn source_lines_stand_below_their_frame() {
    let report = stored().remove(0);
    let wanted = Sources::wanted(&report);
    let lines = &wanted["guest/src/workload/abba_deadlock.rs"];
    assert!(lines.contains(&48), "{lines:?}");
    let text: String = (1..=60).map(|line| format!("line <{line}>\n")).collect();
    let mut sources = Sources::default();
    sources.add("guest/src/workload/abba_deadlock.rs", lines, &text);
    let page = html::report(&report, &sources);
    let excerpt = "   47  line &#60;47&#62;\n&#62;   48  line &#60;48&#62;\n    49  line";
    assert!(page.contains(excerpt), "{page}");
}

#[test]
fn only_comforts_need_the_script() {
    let page = page(&large_report::large_report());
    let tags = tags(&page);
    let has = |tag: &Tag<'_>, wanted: &str| tag.1.iter().any(|(name, _)| *name == wanted);
    let hidden: Vec<&Tag<'_>> = tags.iter().filter(|tag| has(tag, "hidden")).collect();
    assert_eq!(hidden.len(), 2, "the filter and the button: {hidden:?}");
    assert!(hidden.iter().all(|tag| has(tag, "data-needs-script")));
}

#[test]
fn a_ticket_has_hostile_text_in_code_alone() {
    for text in [
        "`` </code> | \\| <b> @who #1 https://x",
        "```\n# heading\n```",
        "a\n\n- [x](javascript:1)",
    ] {
        for report in stored() {
            let ticket = markdown::ticket(&with_strings(&report, text));
            let outside = without_code(&ticket);
            for mark in ["<", "@", "#", "](", "https:", "\\"] {
                assert!(!outside.contains(mark), "{mark} in {outside}");
            }
            let bars: HashMap<usize, usize> = ticket
                .lines()
                .filter(|line| line.starts_with("| "))
                .map(|row| row.replace("\\|", "").matches('|').count())
                .fold(HashMap::new(), |mut counts, bars| {
                    *counts.entry(bars).or_default() += 1;
                    counts
                });
            assert_eq!(bars.keys().collect::<Vec<_>>(), [&3], "{ticket}");
        }
    }
}

/// Returns Markdown without its code blocks and code spans, as CommonMark finds them: a block ends with a fence
/// of at least the length of its first, a span with as many backquotes as it begins with.
fn without_code(markdown: &str) -> String {
    let mut outside = String::new();
    let mut fence: Option<usize> = None;
    for line in markdown.lines() {
        let run = line.bytes().take_while(|byte| *byte == b'`').count();
        match fence {
            Some(length) if run >= length && line.len() == run => fence = None,
            Some(_) => {}
            None if run >= 3 && !line[run..].contains('`') => fence = Some(run),
            None => outside.push_str(&without_spans(line)),
        }
        outside.push('\n');
    }
    assert_eq!(fence, None, "a block has no end");
    outside
}

fn without_spans(line: &str) -> String {
    let mut outside = String::new();
    let mut rest = line;
    while let Some(at) = rest.find('`') {
        outside.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = rest.bytes().take_while(|byte| *byte == b'`').count();
        let body = &rest[length..];
        let mut lengths = BTreeSet::new();
        let mut end = None;
        let mut offset = 0;
        while let Some(next) = body[offset..].find('`') {
            let run = body[offset + next..].bytes().take_while(|byte| *byte == b'`').count();
            lengths.insert(run);
            if run == length {
                end = Some(offset + next + run);
                break;
            }
            offset += next + run;
        }
        rest = &body[end.unwrap_or_else(|| panic!("a span has no end: {line} ({lengths:?})"))..];
    }
    outside + rest
}
