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
        (Expected::Hang(_), [hang]) => faults.extend(faults_of_hang(row, hang, cpus)),
        (Expected::Hang(_), hangs) => faults.push(format!("{} hangs", hangs.len())),
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

fn faults_of_hang(row: &Row, hang: &Hang, cpus: u32) -> Vec<String> {
    let rows = [
        ("blamed", &hang.blamed, row.blamed(cpus)),
        ("victims", &hang.victims, row.victims(cpus)),
        ("locks", &hang.locks, row.locks()),
    ];
    let wrong = rows.into_iter().filter_map(|(what, found, wanted)| {
        let found: BTreeSet<String> = found.iter().cloned().collect();
        (found != wanted).then(|| format!("{what} {found:?} instead of {wanted:?}"))
    });
    wrong.collect()
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
