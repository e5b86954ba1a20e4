//! Of every workload of the corpus once: the class, the blame, the victims and the locks are right, and
//! of the healthy ones nothing is said. `just accuracy` does so at more vCPUs, more often, and with the
//! host loaded.

mod common;

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use common::corpus::{self, Expected, ROWS, Row, promises};
use common::*;
use nmiscope::hang::Class;
use nmiscope::report::{Backtrace, CpuState, Finding, Report};

/// More would take cores from each other.
fn at_a_time() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(2)
}

fn faults(row: &Row, cpus: u32) -> Vec<String> {
    let run = run_workload(row.name, cpus).args(["--serial", "none", "--hang-after", "1s"]);
    let finished = match row.expected() {
        Expected::Healthy => run.start().look_amid(Duration::from_secs(2)),
        expected if expected.name() == "boot-stall" => run.args(["--ready-within", "2s"]).run(),
        // Far longer than a vCPU needs for a second of its own, on a host with better things to do.
        _ => run
            .args(["--stop-after", "160s", "--hang-after", "starved=150s"])
            .deadline(Duration::from_secs(200))
            .run(),
    };
    let report = finished.report();
    let told = |fault: String| format!("{}/{cpus}: {fault}\n{}", row.name, finished.all());
    corpus::faults(row, &report, cpus)
        .into_iter()
        .chain(broken_promises(row, &report))
        .map(told)
        .collect()
}

/// Stacks that are not what the head of the row's file says.
fn broken_promises(row: &Row, report: &Report) -> Vec<String> {
    let stacks = report.backtraces.iter().flat_map(|backtrace| promised_stacks(row, backtrace));
    let broken = stacks.filter(|(_, wanted, found)| !is_subsequence(wanted, found));
    broken.map(|(whose, wanted, found)| format!("{whose}: {found:?}, not {wanted:?}")).collect()
}

/// Whether a CPU goes through its main loop, or does so when a tick wakes it.
fn gets_on(row: &Row, cpu: u32, cpus: u32) -> bool {
    match row.expected() {
        Expected::Hang(Class::Livelock | Class::LostWakeup) => true,
        _ => {
            let name = format!("cpu{cpu}");
            !row.blamed(cpus).contains(&name) && !row.victims(cpus).contains(&name)
        }
    }
}

/// Each stack that the head speaks of: whose, what is to be there, and what is.
fn promised_stacks(
    row: &Row,
    backtrace: &Backtrace,
) -> Vec<(String, Vec<&'static str>, Vec<String>)> {
    let mut stacks = Vec::new();
    let count = backtrace.cpus.len() as u32;
    for promise in promises(row.source, count) {
        let cpus = promise.cpus.iter().map(|&cpu| &backtrace.cpus[cpu as usize]);
        // AMD's KVM resets a vCPU after a triple fault: there is nothing left to see.
        for cpu in cpus.filter(|cpu| cpu.state != CpuState::Reset) {
            let look = ("look", seen_functions(cpu));
            // Who takes no NMI is `live`'s business; and where a CPU gets on, the NMI may come while
            // a function has no frame for the guest to see, which is said.
            let lacks = |finding: &Finding| matches!(finding, Finding::WordIncomplete { .. });
            let excused = gets_on(row, cpu.cpu, count) && cpu.findings.iter().any(lacks);
            let speaks = answered(cpu) && row.expected() != Expected::Healthy && !excused;
            let word = speaks.then(|| ("word", functions(cpu)));
            for (witness, found) in word.into_iter().chain([look]) {
                let whose = format!("{witness} of cpu{}", cpu.cpu);
                stacks.push((whose, promise.functions.clone(), found));
            }
        }
        if let Some(name) = promise.task {
            let task = backtrace.tasks.iter().find(|task| task.name == name);
            let frames = task.and_then(|task| task.look.as_ref()).map(|look| &look.frames);
            let found = frames.into_iter().flatten().flat_map(frame_functions).collect();
            stacks.push((format!("task {name}"), promise.functions, found));
        }
    }
    stacks
}

#[test]
fn every_workload_is_understood() {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_a_time() {
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
