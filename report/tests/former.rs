//! Reports of the former version of the format, stored as that version wrote them, are read as those of this
//! version.

use nmiscope_report::{
    CpuFinding, Fact, NodeKind, SCHEMA_VERSION, WaitKind, blamed_function, json,
};

const CPUS: &[u8] = include_bytes!("former/abba-deadlock.json");
const TASKS: &[u8] = include_bytes!("former/mutex-deadlock.json");
const FINDINGS: &[u8] = include_bytes!("former/corrupt-stack.json");

#[test]
fn stacks_and_facts_under_their_former_names_are_all_read() {
    let report = json::read(CPUS).unwrap();
    assert_eq!(report.schema_version, SCHEMA_VERSION);
    let cpus = &report.backtraces[0].cpus;
    assert!(cpus.iter().all(|cpu| cpu.guest_trace.as_ref().unwrap().current));
    assert!(cpus.iter().all(|cpu| !cpu.host_stack.as_ref().unwrap().frames.is_empty()));
    let hang = &report.hangs[0];
    let function = blamed_function(&hang.blamed, &hang.evidence).unwrap();
    assert!(function.ends_with("::take_second"), "{function}");
    let waits = hang.edges.iter().filter(|edge| edge.kind == WaitKind::WaitsFor);
    assert!(waits.clone().count() == 2 && waits.clone().all(|edge| edge.call_site.is_some()));
    assert!(waits.clone().all(|edge| edge.lasted_ms.is_some()));
}

#[test]
fn stacks_of_tasks_are_read() {
    let report = json::read(TASKS).unwrap();
    let tasks = &report.backtraces[0].tasks;
    assert!(tasks.len() == 2 && tasks.iter().all(|task| task.host_stack.is_some()));
    let hang = &report.hangs[0];
    assert!(hang.evidence.iter().all(|evidence| hang.blamed.contains(&evidence.party)));
    assert!(hang.nodes.iter().any(|node| matches!(node.kind, NodeKind::Task { .. })));
}

#[test]
fn findings_and_positions_under_their_former_names_are_read() {
    let report = json::read(FINDINGS).unwrap();
    let findings: Vec<&CpuFinding> =
        report.backtraces[0].cpus.iter().flat_map(|cpu| &cpu.findings).collect();
    assert!(findings.iter().any(|found| matches!(found, CpuFinding::StackBroken { .. })));
    let facts = report.hangs[0].evidence.iter().map(|evidence| &evidence.fact);
    let mut positions = facts.filter(|fact| matches!(fact, Fact::StoppedAt { .. }));
    let Some(Fact::StoppedAt { address, .. }) = positions.next() else { panic!("a position") };
    assert_eq!(address.len(), 16);
}

/// Each former name, in the smallest text that has it.
#[test]
fn every_former_kind_of_finding_is_read() {
    let rows = [
        (r#"{"kind": "word-garbled"}"#, CpuFinding::TraceGarbled),
        (r#"{"kind": "word-truncated"}"#, CpuFinding::TraceTruncated),
        (r#"{"kind": "word-incomplete", "frames": 2}"#, CpuFinding::TraceIncomplete { frames: 2 }),
        (r#"{"kind": "witnesses-differ", "frame": 1}"#, CpuFinding::StacksDiffer { frame: 1 }),
    ];
    for (text, wanted) in rows {
        assert_eq!(serde_json::from_str::<CpuFinding>(text).unwrap(), wanted);
    }
    let fact = r#"{"fact": "work-undone", "ms": 1.0, "items": 2, "ran_ms": 3.0}"#;
    let wanted = Fact::PendingWork { ms: 1.0, items: 2, ran_ms: 3.0 };
    assert_eq!(serde_json::from_str::<Fact>(fact).unwrap(), wanted);
}

#[test]
fn fields_missing_in_former_reports_are_unknown_or_derived() {
    let report = json::read(TASKS).unwrap();
    assert_eq!((report.captured_at, report.host.as_str()), (None, "unknown"));
    assert_eq!(report.hangs[0].bucket, None);
    assert_eq!(report.summary, "hang: deadlock, reader and writer");
}

#[test]
fn older_and_newer_versions_are_refused_by_number() {
    for version in [SCHEMA_VERSION - 2, SCHEMA_VERSION + 1] {
        let text = format!("{{\"schema_version\": {version}}}");
        let error = json::read(text.as_bytes()).unwrap_err().to_string();
        let (oldest, newest) = (SCHEMA_VERSION - 1, SCHEMA_VERSION);
        let wanted =
            format!("version {version}, and this nmiscope reads versions {oldest} and {newest}");
        assert!(error.contains(&wanted), "{error}");
    }
}
