//! Redacted forms of stored reports, and of one with a mark in each of its strings.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::*;
use crate::json;
use crate::text::{self, Detail};

const REPORTS: [&str; 6] = [
    include_str!("../../../tests/offline/cores/abba-deadlock.json"),
    include_str!("../../../tests/offline/cores/corrupt-stack.json"),
    include_str!("../../../tests/offline/cores/mutex-deadlock.json"),
    include_str!("../../../tests/offline/cores/nmi-stuck.json"),
    include_str!("../../../tests/offline/cores/null-deref.json"),
    include_str!("../../../tests/offline/dumps/mutex-deadlock.json"),
];

fn redacted(report: &Report) -> Report {
    let mut redacted = report.clone();
    redacted.redact(&mut Pseudonyms::default());
    redacted
}

/// Returns all strings below a value, each with its path; elements of lists have no index there.
fn strings(value: &Value) -> Vec<(String, &str)> {
    let below = |name: &str, value| {
        strings(value).into_iter().map(|(path, text)| (format!("{name}{path}"), text)).collect()
    };
    match value {
        Value::String(text) => vec![(String::new(), text)],
        Value::Array(list) => {
            list.iter().flat_map(|value| -> Vec<_> { below("[]", value) }).collect()
        }
        Value::Object(members) => {
            let each =
                |(name, value): (&String, _)| -> Vec<_> { below(&format!(".{name}"), value) };
            members.iter().flat_map(each).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

/// Returns the strings of a report that a redacted one must not contain, and the names of its tasks.
fn secrets(report: &Value) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let (mut secrets, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (path, text) in strings(report) {
        let lines = path.ends_with(".guest_trace.text") || path.ends_with(".message");
        let is_secret = lines
            || path.starts_with(".console_tail")
            || path.contains(".log.lines")
            || path.contains(".registers.")
            || path.ends_with(".address")
            || path == ".image.command_line";
        if is_secret {
            secrets.extend(text.lines().filter(|line| !line.is_empty() && *line != "not recorded"));
        }
        if path.contains(".tasks[].name") || path.contains(".nodes[].name") {
            names.insert(text);
        }
    }
    (secrets, names)
}

#[test]
fn no_log_line_register_or_task_name_is_left_in_stored_reports() {
    let mut counts = (0, 0);
    for full in REPORTS {
        let report = json::read(full.as_bytes()).unwrap();
        let full: Value = serde_json::from_str(full).unwrap();
        let (secrets, names) = secrets(&full);
        counts = (counts.0 + secrets.len(), counts.1 + names.len());
        let report = redacted(&report);
        let json = serde_json::to_value(&report).unwrap();
        let text = text::report(&report, Detail::All);
        let text = anstream::adapter::strip_str(&text).to_string();
        for secret in secrets {
            let place = strings(&json).into_iter().find(|(_, text)| text.contains(secret));
            assert_eq!(place, None, "{secret}");
            assert!(!text.contains(secret), "{secret}\n{text}");
        }
        for name in names {
            let place = strings(&json).into_iter().find(|(_, text)| *text == name);
            assert_eq!(place, None, "{name}");
            assert!(!text.split([' ', ',', '\n']).any(|word| word == name), "{name}\n{text}");
            assert!(!report.summary.contains(name), "{}", report.summary);
        }
    }
    assert!(counts.0 > 200 && counts.1 >= 4, "{counts:?}");
}

#[test]
fn verdicts_functions_lines_and_locks_are_kept() {
    let full = json::read(REPORTS[2].as_bytes()).unwrap();
    let report = redacted(&full);
    assert_eq!(report.summary, "hang: deadlock:take_both:INODE_MUTEX<->JOURNAL_MUTEX, #0 and #1");
    let text = text::report(&report, Detail::Folded);
    let text = anstream::adapter::strip_str(&text).to_string();
    let wanted = [
        "redacted: without log and console",
        "hang: deadlock, task #0 on cpu0 and task #1 on cpu1",
        "task #0 on cpu0 holds INODE_MUTEX (taken at guest/src/workload/mutex_deadlock.rs:",
        "waits for JOURNAL_MUTEX",
        "task #1  on cpu1, blocked, waits for INODE_MUTEX",
        "take_both",
        "log (1 line, left out)",
    ];
    for wanted in wanted {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    let functions = |report: &Report| -> Vec<Vec<Function>> {
        let cpus = report.backtraces.iter().flat_map(|backtrace| &backtrace.cpus);
        let frames = cpus.flat_map(|cpu| &cpu.host_stack.as_ref().unwrap().frames);
        frames.map(|frame| frame.functions.clone()).collect()
    };
    assert_eq!(functions(&report), functions(&full));
}

/// Returns a report that has every member with a string in it.
fn complete() -> Value {
    let mut report: Value = serde_json::from_str(REPORTS[2]).unwrap();
    report["captured_at"] = json!("2026-01-02T03:04:05Z");
    report["image"]["path"] = json!("/home/someone/vmlinux");
    report["image"]["initrd"] = json!("/home/someone/initrd");
    report["image"]["kernel"] = json!({"kind": "known", "name": "Linux"});
    report["outcome"] = json!({"kind": "panic", "cpu": 1, "message": "a panic's message"});
    report["warnings"] = json!(["a warning"]);
    report["console_tail"] = json!(["a line of the console"]);
    let memory = json!("process");
    report["visit"] = json!({
        "pid": 1, "memory": memory, "run_state": "paused", "stopped_ms": null, "torn": false
    });
    let hang = &mut report["hangs"][0];
    hang["certainty"] = json!({"kind": "unknown", "reason": "a reason"});
    hang["victims"] = json!(["reader"]);
    hang["nodes"][0]["task"] = json!("reader");
    let line = json!({"file": "a.c", "line": 1});
    hang["evidence"].as_array_mut().unwrap().push(json!({
        "party": "cpu0", "fact": "stopped-at", "halted": true, "interrupts_enabled": true,
        "nmi_masked": false, "handler": "interrupt", "address": "ffffffff81000000", "function": "a_function", "line": line
    }));
    let queue = json!({"id": "QUEUE", "kind": "queue", "symbol": "A::QUEUE", "address": "ffffffff81000100"});
    hang["nodes"].as_array_mut().unwrap().push(queue);
    let backtrace = &mut report["backtraces"][0];
    backtrace["trigger"] = json!({"kind": "signal", "name": "SIGQUIT"});
    backtrace["reservation"] = json!({"kind": "unavailable", "reason": "another reason"});
    backtrace["log"]["missing"] = json!("no log");
    let cpu = &mut backtrace["cpus"][0];
    cpu["nmi"]["answer"] = json!({"kind": "no-answer", "reason": "no answer"});
    cpu["findings"] = json!([
        {"kind": "stack-broken", "reason": "broken"}, {"kind": "stack-unreadable", "reason": "gone"}
    ]);
    cpu["guest_trace"]["findings"] = json!(["a finding"]);
    let frame = &mut cpu["host_stack"]["frames"][0];
    frame["cfi_fault"] = json!("a fault");
    frame["functions"][0]["variables"] = json!([
        {"name": "a", "kind": "local", "type": "u32", "value": "secret", "availability": "known"},
        {"name": "b", "kind": "local", "type": null, "value": "lost", "availability": "unavailable"}
    ]);
    report
}

/// Returns the report with a mark in place of each string that may be another one: equal strings get equal
/// marks. Addresses stay as they are.
fn marked(report: &Value) -> Report {
    fn slots<'a>(value: &'a mut Value, out: &mut Vec<&'a mut Value>) {
        match value {
            Value::String(_) => out.push(value),
            Value::Array(list) => list.iter_mut().for_each(|value| slots(value, out)),
            Value::Object(members) => members.values_mut().for_each(|value| slots(value, out)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let count = strings(report).len();
    let mut marks = BTreeMap::new();
    let mut marked = report.clone();
    for index in 0..count {
        let mut attempt = marked.clone();
        let mut all = Vec::new();
        slots(&mut attempt, &mut all);
        let text = all[index].as_str().unwrap().to_owned();
        if address(&text).is_some() {
            continue;
        }
        let next = marks.len();
        *all[index] = json!(format!("mark{}.", marks.entry(text).or_insert(next)));
        if serde_json::from_value::<Report>(attempt.clone()).is_ok() {
            marked = attempt;
        }
    }
    serde_json::from_value(marked).unwrap()
}

/// Members whose strings a redacted report keeps, but for the addresses in them; docs/privacy.md has them for
/// people.
const KEPT: [&str; 51] = [
    ".backtraces[].cpus[].findings[].reason",
    ".backtraces[].cpus[].guest_trace.findings[]",
    ".backtraces[].cpus[].guest_trace.frames[].functions[].file",
    ".backtraces[].cpus[].guest_trace.frames[].functions[].name",
    ".backtraces[].cpus[].guest_trace.frames[].missing",
    ".backtraces[].cpus[].guest_trace.frames[].symbol.name",
    ".backtraces[].cpus[].host_stack.end",
    ".backtraces[].cpus[].host_stack.frames[].cfi_fault",
    ".backtraces[].cpus[].host_stack.frames[].functions[].file",
    ".backtraces[].cpus[].host_stack.frames[].functions[].name",
    ".backtraces[].cpus[].host_stack.frames[].functions[].variables[].name",
    ".backtraces[].cpus[].host_stack.frames[].functions[].variables[].type",
    ".backtraces[].cpus[].host_stack.frames[].functions[].variables[].value",
    ".backtraces[].cpus[].host_stack.frames[].missing",
    ".backtraces[].cpus[].host_stack.frames[].symbol.name",
    ".backtraces[].cpus[].nmi.answer.reason",
    ".backtraces[].log.missing",
    ".backtraces[].reservation.reason",
    ".backtraces[].tasks[].host_stack.end",
    ".backtraces[].tasks[].host_stack.frames[].functions[].file",
    ".backtraces[].tasks[].host_stack.frames[].functions[].name",
    ".backtraces[].tasks[].host_stack.frames[].missing",
    ".backtraces[].tasks[].host_stack.frames[].symbol.name",
    ".backtraces[].tasks[].waits_for",
    ".backtraces[].trigger.name",
    ".backtraces[].waits.edges[].call_site.file",
    ".backtraces[].waits.edges[].from",
    ".backtraces[].waits.edges[].to",
    ".backtraces[].waits.nodes[].id",
    ".backtraces[].waits.nodes[].symbol",
    ".backtraces[].waits.nodes[].taken_at.file",
    ".captured_at",
    ".hangs[].bucket",
    ".hangs[].certainty.reason",
    ".hangs[].edges[].call_site.file",
    ".hangs[].edges[].from",
    ".hangs[].edges[].to",
    ".hangs[].evidence[].function",
    ".hangs[].evidence[].line.file",
    ".hangs[].evidence[].party",
    ".hangs[].locks[]",
    ".hangs[].nodes[].id",
    ".hangs[].nodes[].symbol",
    ".hangs[].nodes[].taken_at.file",
    ".image.build_id",
    ".image.kernel.name",
    ".summary",
    ".tool.name",
    ".tool.version",
    ".visit.run_state",
    ".warnings[]",
];

#[test]
fn strings_that_a_redacted_report_keeps_are_those_of_the_list() {
    let report = redacted(&marked(&complete()));
    let json = serde_json::to_value(&report).unwrap();
    let kept = strings(&json).into_iter().filter(|(_, text)| text.contains("mark"));
    let kept: BTreeSet<String> = kept.map(|(path, _)| path).collect();
    let kept: Vec<&str> = kept.iter().map(String::as_str).collect();
    assert_eq!(kept, KEPT);
}

#[test]
fn addresses_and_paths_in_sentences_are_replaced() {
    let mut pseudonyms = Pseudonyms::default();
    let rows = [
        ("the stack at ffff888000001000 is unmapped", "the stack at address#1 is unmapped"),
        ("(0xffff888000001000, 0xffff888000002000)", "(address#1, address#2)"),
        ("/home/a/vmlinux may be another image", "<path> may be another image"),
        ("./vmlinux and images/initrd", "<path> and <path>"),
        ("an I/O error at STATE+0x1000/0x2000", "an I/O error at STATE+0x1000/0x2000"),
        ("Linux 6.1.0 (KASLR 0x1a000000, BTF)", "Linux 6.1.0 (KASLR address#3, BTF)"),
        ("268435456 bytes, 0x12345", "268435456 bytes, 0x12345"),
        ("", ""),
    ];
    for (full, wanted) in rows {
        assert_eq!(pseudonyms.sentence(full), wanted);
    }
}

#[test]
fn path_with_spaces_is_replaced_in_warnings() {
    let mut report = json::read(REPORTS[0].as_bytes()).unwrap();
    report.image.path = Some("/home/some one/vm linux".into());
    report.warnings = vec!["/home/some one/vm linux is old".into()];
    assert_eq!(redacted(&report).warnings, ["<path> is old"]);
}

#[test]
fn locks_without_symbols_stay_different() {
    let mut report = json::read(REPORTS[2].as_bytes()).unwrap();
    let hang = &mut report.hangs[0];
    for (index, name) in ["ffff888000001000", "LOCK@ffff888000002000"].into_iter().enumerate() {
        let old = std::mem::replace(&mut hang.locks[index], name.into());
        for node in hang.nodes.iter_mut().filter(|node| node.id == old) {
            node.id = name.into();
        }
        for end in hang.edges.iter_mut().flat_map(|edge| [&mut edge.from, &mut edge.to]) {
            if *end == old {
                *end = name.into();
            }
        }
    }
    let report = redacted(&report);
    let [first, second] = &report.hangs[0].locks[..] else { panic!("{:?}", report.hangs) };
    assert!(
        first.starts_with("address#") && second.starts_with("LOCK@address#"),
        "{first} {second}"
    );
    for lock in [first, second] {
        assert!(report.hangs[0].edges.iter().any(|edge| edge.to == *lock), "{lock}");
        assert!(report.hangs[0].edges.iter().any(|edge| edge.from == *lock), "{lock}");
    }
}

#[test]
fn party_outside_of_its_graph_loses_its_name() {
    let mut report = json::read(REPORTS[2].as_bytes()).unwrap();
    report.hangs[0].victims = vec!["postgres".into(), "cpu7".into(), "cpu".into()];
    assert_eq!(redacted(&report).hangs[0].victims, [REDACTED, "cpu7", REDACTED]);
}

#[test]
fn redacting_twice_changes_nothing() {
    for full in REPORTS {
        let once = redacted(&json::read(full.as_bytes()).unwrap());
        assert_eq!(redacted(&once), once);
    }
}

#[test]
fn redacted_report_is_read_again_as_one() {
    let report = redacted(&json::read(REPORTS[0].as_bytes()).unwrap());
    let text = json::text(&report).unwrap();
    assert_eq!(json::read(text.as_bytes()).unwrap(), report);
    assert!(report.redacted);
    assert!(!json::text(&json::read(REPORTS[0].as_bytes()).unwrap()).unwrap().contains("redacted"));
}
