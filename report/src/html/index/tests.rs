//! Pages of made-up rows: escaping, bounds, identifiers, and what a page of nothing says.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;

/// Makes a page's contents with this text wherever text may be.
fn everywhere(text: &str) -> Index {
    let line = || SafeLine::new(text);
    let pair = || (line(), line());
    let link = || PageLink {
        text: line(),
        address: Href::relative(&Path::new("vms").join(text.replace('/', "_"))).unwrap(),
    };
    let group = Group {
        name: line(),
        class: line(),
        bucket: line(),
        signature: line(),
        count: 3,
        place: line(),
        first_seen: line(),
        last_seen: line(),
        by_day: vec![(line(), 3)],
        known: Some(Known { word: line(), page: line(), address: Href::web(text), note: line() }),
        facts: vec![pair()],
        stacks: vec![(line(), vec![line(), line()])],
        vms: NameList::new(&[text]),
        exemplar: Some(link()),
    };
    let run = Run {
        name: line(),
        result: line(),
        failed: true,
        reason: line(),
        duration: line(),
        links: vec![link()],
    };
    let day = || Day { name: line(), runs: 4, failed: 3 };
    let section = Section { heading: line(), remark: line(), groups: vec![group], total: 1 };
    Index {
        title: line(),
        totals: line(),
        facts: vec![pair()],
        days: vec![day(), day()],
        sections: vec![section],
        no_groups: line(),
        flaky: NameList::new(&[text]),
        runs: Some(RunList { rows: vec![run], total: 1 }),
        remarks: NameList::new(&[text]),
        made_by: line(),
    }
}

/// Returns the start tags of a page with their attributes' names, in order.
fn tags(page: &str) -> Vec<String> {
    let body = page.split_once("</head>").unwrap().1.split_once("<script>").unwrap().0;
    let tags = body.split('<').skip(1).map(|rest| rest.split_once('>').unwrap().0);
    let names = |tag: &str| {
        // Values have no quotes, which are escaped: every second part is one.
        tag.split('"').step_by(2).collect::<Vec<_>>().join("")
    };
    tags.map(names).collect()
}

fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let start = format!(" {attribute}=\"");
    page.split(&start).skip(1).map(|rest| rest.split_once('"').unwrap().0).collect()
}

#[test]
fn hostile_text_makes_neither_elements_nor_attributes() {
    let harmless = page(&everywhere("harmless"));
    for text in [
        "</script><script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "' onclick='alert(1)",
        "javascript:alert(1)",
        "&lt;b&gt;",
        "{{ 7 * 7 }}",
        "<!--",
        "]]></svg><svg onload=alert(1)>",
    ] {
        let hostile = page(&everywhere(text));
        assert_eq!(tags(&hostile), tags(&harmless), "{text}");
        assert!(values(&hostile, "href").iter().all(|href| !href.contains("javascript:")));
        assert!(hostile.contains("&#60;") || !text.contains('<'), "{text}");
    }
    assert!(!harmless.contains("style="), "a policy without attribute styles");
}

#[test]
fn control_characters_are_shown_as_escapes() {
    let text = page(&everywhere("\x1b]0;x\x07\u{202e}"));
    assert!(text.chars().all(|character| character == '\n' || !character.is_control()));
    assert!(text.contains("\\u{1b}]0;x\\u{7}\\u{202e}"));
}

#[test]
fn groups_and_runs_have_bounds_and_the_rest_is_counted() {
    let mut index = everywhere("x");
    let group = index.sections[0].groups[0].clone();
    index.sections[0].groups = vec![group.clone(); MAX_GROUPS + 1];
    index.sections[0].total = 10_000;
    index.sections.push(Section { groups: vec![group; 7], total: 7, ..Section::default() });
    let run = index.runs.as_ref().unwrap().rows[0].clone();
    index.runs = Some(RunList { rows: vec![run; MAX_RUNS + 1], total: MAX_RUNS + 1 });
    index.flaky = NameList::new(&["x"; 51]);
    let text = page(&index);
    assert_eq!(text.matches("data-label=\"Exemplar\"").count(), MAX_GROUPS);
    assert_eq!(text.matches("data-label=\"Result\"").count(), MAX_RUNS);
    for wanted in [
        "<h2>x: 10000</h2>",
        "<p>9000 more groups are left out here.</p>",
        "<p>7 more groups are left out here.</p>",
        "<p>1 more run is left out here.</p>",
        "<li>and 1 more</li>",
    ] {
        assert!(text.contains(wanted), "{wanted}");
    }
}

#[test]
fn identifiers_are_unique_and_labels_lead_to_them() {
    let mut index = everywhere("x");
    index.sections.push(index.sections[0].clone());
    let text = page(&index);
    let body = text.split_once("<script>").unwrap().0;
    let all = values(body, "id");
    let different: BTreeSet<&str> = all.iter().copied().collect();
    assert_eq!(all.len(), different.len(), "{all:?}");
    for attribute in ["for", "data-filter", "data-status"] {
        let leads = values(body, attribute);
        assert!(!leads.is_empty() && leads.iter().all(|id| different.contains(id)), "{leads:?}");
    }
}

#[test]
fn only_addresses_of_the_web_become_links_of_known_failures() {
    let links = |url: &str| {
        let mut index = everywhere("x");
        index.sections[0].groups[0].known = Some(Known {
            word: SafeLine::new("known"),
            page: SafeLine::new(url),
            address: Href::web(url),
            note: SafeLine::default(),
        });
        let text = page(&index);
        values(&text, "href").into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        links("https://bugs.example/1"),
        ["#main", "https://bugs.example/1", "vms/x", "vms/x"]
    );
    assert_eq!(links("javascript:alert(1)"), ["#main", "vms/x", "vms/x"]);
}

#[test]
fn page_without_groups_says_so() {
    let index = Index { no_groups: SafeLine::new("Nothing failed."), ..Index::default() };
    let text = page(&index);
    assert!(text.contains("<p>Nothing failed.</p>") && !text.contains("<table"), "{text}");
}
