//! Words: names, links, sentences, and harmless text.

use super::cases::{self, Case};
use super::geometry::elements;
use crate::wait_graph::{Picture, STYLE, sentences};
use crate::{LockKind, WaitKind};

/// Text of a hostile guest: elements, entities, escapes, and marks of the writing direction.
const HOSTILE: &str = "</text></svg><script>alert(1)</script>\"'>&amp;\u{1b}[2J\u{202e}\\N\\\"";

fn svg(case: &Case) -> String {
    Picture::new(case.waits()).unwrap().svg("hang0", &|party| Some(format!("of-{party}")))
}

#[test]
fn sentences_name_waits_with_holder_and_duration() {
    assert_eq!(
        sentences(cases::abba().waits()),
        [
            "cpu0 waits for JOURNAL_LOCK, held by cpu1 (2.0 s)",
            "cpu1 waits for INODE_LOCK, held by cpu0 (2.0 s)",
        ]
    );
}

#[test]
fn a_hold_that_nobody_waits_for_has_a_sentence() {
    let case = Case::default().task("writer").lock("TREE", LockKind::Mutex, Some("writer"));
    assert_eq!(sentences(case.waits()), ["TREE is held by writer (2.0 s)"]);
}

#[test]
fn sentences_are_a_thousand_at_most_and_count_the_rest() {
    let all = sentences(cases::waiters(1500).waits());
    assert_eq!(all.len(), 1001);
    assert_eq!(all.last().map(String::as_str), Some("500 more sentences left out"));
}

#[test]
fn each_box_leads_to_its_stack_and_has_an_id() {
    let case = cases::abba();
    let svg = svg(&case);
    let elements = elements(&svg);
    let links: Vec<_> = elements.iter().filter_map(|element| element.find("href")).collect();
    assert_eq!(links, ["#of-cpu0", "#of-JOURNAL_LOCK", "#of-INODE_LOCK", "#of-cpu1"]);
    let picture = Picture::new(case.waits()).unwrap();
    for party in ["cpu0", "cpu1", "INODE_LOCK", "JOURNAL_LOCK"] {
        let id = format!("hang0-node-{}", picture.box_of(party).unwrap());
        assert!(elements.iter().any(|element| element.find("id") == Some(&id)), "{id}");
    }
    let mut ids: Vec<_> = elements.iter().filter_map(|element| element.find("id")).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "ids are unique");
    assert!(ids.iter().all(|id| id.starts_with("hang0-")), "{ids:?}");
}

#[test]
fn the_cycle_has_words_and_double_lines() {
    let svg = svg(&cases::chain());
    assert!(!svg.contains("in the cycle") && !svg.contains("wg-ring") && !svg.contains("wg-core"));
    let svg = self::svg(&cases::abba());
    assert_eq!(svg.matches(">blamed, in the cycle<").count(), 2);
    assert_eq!(svg.matches(">in the cycle<").count(), 2);
    assert_eq!(svg.matches("wg-ring").count(), 4);
    assert_eq!(svg.matches("wg-core").count(), 4);
    assert!(svg.contains("in the cycle: cpu0, cpu1, INODE_LOCK, JOURNAL_LOCK</desc>"), "{svg}");
}

#[test]
fn labels_are_read_along_the_arrow() {
    let labels = |case: &Case| {
        let svg = svg(case);
        let labels: Vec<_> = elements(&svg)
            .into_iter()
            .filter(|element| element.has_class("wg-label"))
            .map(|element| element.text.to_owned())
            .collect();
        labels
    };
    assert_eq!(labels(&cases::chain()), ["held 2.0 s by", "waits 2.0 s for", "runs on"]);
    let mut case = cases::waiters(9);
    case.edges[4].lasted_ms = Some(500.0);
    assert_eq!(labels(&case), ["held 2.0 s by", "wait 0.5-2.0 s for"]);
}

#[test]
fn hostile_names_are_text() {
    let case = Case::default()
        .task(HOSTILE)
        .lock(&format!("{HOSTILE}2"), LockKind::Mutex, Some(HOSTILE))
        .waits_for(HOSTILE, &format!("{HOSTILE}2"));
    let svg = Picture::new(case.waits()).unwrap().svg("hang0", &|_| Some("stack".into()));
    let names = elements(&svg).into_iter().map(|element| element.name);
    let known = ["svg", "title", "desc", "g", "path", "rect", "text", "a"];
    let unknown: Vec<_> = names.filter(|name| !known.contains(name)).collect();
    assert_eq!(unknown, Vec::<&str>::new());
    assert!(!svg.chars().any(|c| c.is_control() && c != '\n'), "no control characters");
    assert!(!svg.contains('\u{202e}'));
    assert!(!sentences(case.waits()).concat().contains(['\u{1b}', '\u{202e}']));
}

#[test]
fn a_long_name_is_cut_but_whole_in_the_title() {
    let name = "a_task_with_a_name_that_is_longer_than_a_box/1234";
    let svg = svg(&Case::default().task(name));
    assert!(svg.contains(">a_task_with_..._a_box/1234<"), "{svg}");
    assert!(svg.contains(&format!("<title>{name}: task on cpu1, blocked")), "{svg}");
}

#[test]
fn waits_for_unknown_parties_are_counted() {
    let case = cases::abba().edge("cpu0", "cpu9", WaitKind::CallsFunction);
    assert!(svg(&case).contains("1 wait left out: the report does not have the party"));
}

#[test]
fn nothing_is_styled_or_scripted_beside_the_style_sheet() {
    let svg = svg(&cases::large());
    for element in elements(&svg) {
        for (name, value) in &element.attributes {
            let is_fixed = !matches!(*name, "style" | "fill" | "stroke") && !name.starts_with("on");
            assert!(is_fixed, "{name}={value}");
        }
    }
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
    assert!(!STYLE.contains('#'), "colours are the page's");
}
