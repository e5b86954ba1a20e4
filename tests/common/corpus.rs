//! Comparison of a run's report with the labels of the corpus.

use std::collections::BTreeSet;

pub use nmiscope_farm::corpus::*;
use nmiscope_report::{CrashCause, Hang, Outcome, Report};

/// Returns the differences between a report of a run with `cpus` vCPUs and the row's labels.
pub fn faults(row: &Row, report: &Report, cpus: u32) -> Vec<String> {
    let mut faults = Vec::new();
    let expected = row.expected();
    let found = found(report);
    if found != Some(expected) {
        let found = found.map_or_else(|| format!("{:?}", report.outcome), |found| found.name());
        faults.push(format!("{found} instead of {}", expected.name()));
    }
    let verdicts = report.hangs.iter().filter(|hang| hang.certainty.is_verdict());
    match (expected, &Vec::from_iter(verdicts)[..]) {
        (Expected::Hang(_), hangs) => faults.extend(faults_of_hangs(row, hangs, cpus)),
        (Expected::Panic | Expected::TripleFault, []) => {
            faults.extend(fault_of_end(row, report, cpus));
        }
        (_, []) => {}
        (_, hangs) => faults.push(format!("a false alarm: {}", hangs[0].class)),
    }
    faults
}

/// Returns the difference between the CPU of a panic or crash and the row's label.
fn fault_of_end(row: &Row, report: &Report, cpus: u32) -> Option<String> {
    let (Outcome::Panic { cpu, .. } | Outcome::Crash { cpu, .. }) = report.outcome else {
        return None;
    };
    let found = BTreeSet::from([format!("cpu{cpu}")]);
    let wanted = row.blamed(cpus);
    (found != wanted).then(|| format!("on {found:?} instead of {wanted:?}"))
}

/// Returns the differences between the verdicts of a report and the labels, which name the victims and the
/// locks of all hangs together.
fn faults_of_hangs(row: &Row, hangs: &[&Hang], cpus: u32) -> Vec<String> {
    let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<String>>();
    let all = |names: fn(&Hang) -> &[String]| -> BTreeSet<String> {
        hangs.iter().flat_map(|hang| names(hang)).cloned().collect()
    };
    let found: Vec<_> = hangs.iter().map(|hang| (hang.class, set(&hang.blamed))).collect();
    let wanted = row.hangs(cpus);
    let mut wrong = Vec::new();
    if found != wanted {
        wrong.push(format!("blamed {found:?} instead of {wanted:?}"));
    }
    let rows = [
        ("victims", all(|hang| &hang.victims), row.victims(cpus)),
        ("locks", all(|hang| &hang.locks), row.locks()),
    ];
    wrong.extend(rows.into_iter().filter_map(|(what, found, wanted)| {
        (found != wanted).then(|| format!("{what} {found:?} instead of {wanted:?}"))
    }));
    wrong
}

/// Returns a report's outcome as a label of the corpus; `None` for an outcome that no row has.
pub fn found(report: &Report) -> Option<Expected> {
    Some(match &report.outcome {
        Outcome::Hang => Expected::Hang(report.hangs.first()?.class),
        Outcome::Panic { .. } => Expected::Panic,
        Outcome::Crash { cause: CrashCause::TripleFault, .. } => Expected::TripleFault,
        Outcome::Exit { code } => Expected::Exit(*code),
        Outcome::Stopped { .. } => Expected::Healthy,
        Outcome::Crash { .. }
        | Outcome::Starved { .. }
        | Outcome::TimedOut { .. }
        | Outcome::Observed { .. } => return None,
    })
}
