//! Of every workload of the corpus once: the class, the blame, the victims and the locks are right, and
//! of the healthy ones nothing is said. `just accuracy` does so at more vCPUs, more often, and with the
//! host loaded.

mod common;

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use common::corpus::{Expected, ROWS, Row};
use common::*;

/// More would take cores from each other.
const AT_A_TIME: usize = 2;

fn faults(row: &Row, cpus: u32) -> Vec<String> {
    let run = run_workload(row.name, cpus).args(["--serial", "none", "--hang-after", "1s"]);
    let run = match row.expected() {
        Expected::Healthy => run.args(["--stop-after", "4s"]),
        expected if expected.name() == "boot-stall" => run.args(["--ready-within", "2s"]),
        _ => run.args(["--stop-after", "30s"]),
    };
    let finished = run.run();
    let faults = row.faults(&finished.report(), cpus);
    let told = |fault: String| format!("{}/{cpus}: {fault}\n{}", row.name, finished.all());
    faults.into_iter().map(told).collect()
}

#[test]
fn every_workload_is_understood() {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(row) = ROWS.get(next.fetch_add(1, Relaxed)) {
                    let faults = faults(row, row.min_cpus().max(2));
                    wrong.lock().unwrap_or_else(PoisonError::into_inner).extend(faults);
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_workload_is_in_the_corpus_with_its_number_of_cpus() {
    let guest = include_str!("../guest/src/workload/mod.rs");
    assert_eq!(ROWS.len(), guest.matches("::WORKLOAD,").count());
    for row in ROWS {
        let Row { name, source } = row;
        assert!(source.contains(&format!("name: {name:?}")), "{name}");
        let min_cpus = format!("min_cpus: {}", row.min_cpus());
        assert!(source.contains(&min_cpus), "{name}: {min_cpus}");
        row.expected();
    }
}
