//! Accuracy of the workloads without a row in tests/live.rs, once each: class, blame, victims and locks
//! are those of the labels, the stacks those that the heads of the files promise, and healthy guests are
//! not reported. `just accuracy` runs all workloads at more vCPUs, more often, and with the host loaded.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::corpus::{Expected, ROWS, faults, find};
use crate::common::promises::broken_promises;
use crate::common::*;
use crate::live;

#[track_caller]
fn check(name: &str) {
    let row = find(name).expect("a workload of that name");
    let cpus = row.min_cpus().max(2);
    let run = run_workload(row.name, cpus).args(["--serial", "none", "--hang-after", "1s"]);
    let finished = match row.expected() {
        Expected::Healthy => run.start().look_amid(Duration::from_secs(2)),
        expected if expected.name() == "boot-stall" => run.args(["--ready-within", "2s"]).run(),
        // Far longer than a vCPU needs for a second of its own time on a busy host.
        _ => run
            .args(["--stop-after", "160s", "--hang-after", "starved=150s"])
            .deadline(Duration::from_secs(200))
            .run(),
    };
    let report = finished.report();
    let mut wrong = faults(row, &report, cpus);
    wrong.extend(broken_promises(row, &report));
    assert!(wrong.is_empty(), "{name}/{cpus}: {}\n{}", wrong.join("; "), finished.all());
}

macro_rules! workloads {
    ($($test:ident: $name:literal;)*) => {
        const HERE: &[&str] = &[$($name),*];

        $(
            #[test]
            fn $test() {
                check($name);
            }
        )*
    };
}

workloads! {
    ap_never_arrives: "ap-never-arrives";
    ap_never_starts: "ap-never-starts";
    boot_stall: "boot-stall";
    call_deadlock: "call-deadlock";
    fault_loop: "fault-loop";
    forgotten_unlock: "forgotten-unlock";
    heavy_printk: "heavy-printk";
    holder_halts: "holder-halts";
    holder_spins: "holder-spins";
    interrupt_storm: "interrupt-storm";
    ipi_ack_lost: "ipi-ack-lost";
    ipi_wait: "ipi-wait";
    livelock: "livelock";
    lock_contention: "lock-contention";
    long_critical_section: "long-critical-section";
    long_irqs_off: "long-irqs-off";
    lost_wakeup: "lost-wakeup";
    many_ipis: "many-ipis";
    missed_timer: "missed-timer";
    mixed_cycle: "mixed-cycle";
    mutex_contention: "mutex-contention";
    mutex_deadlock: "mutex-deadlock";
    mutex_holder_spins: "mutex-holder-spins";
    nested_panic: "nested-panic";
    panic_others_spin: "panic-others-spin";
    pause_and_go: "pause-and-go";
    pause_in_irq: "pause-in-irq";
    raw_flags: "raw-flags";
    recursion: "recursion";
    rwlock_reader_lost: "rwlock-reader-lost";
    same_code_ab: "same-code-ab";
    same_code_cd: "same-code-cd";
    self_deadlock: "self-deadlock";
    seqlock_writer_stuck: "seqlock-writer-stuck";
    sleeping_holder: "sleeping-holder";
    spin_in_calls: "spin-in-calls";
    task_hog: "task-hog";
    three_lock_cycle: "three-lock-cycle";
    ticket_starved: "ticket-starved";
}

#[test]
fn every_workload_is_run_here_or_in_live() {
    let run: BTreeSet<&str> = HERE.iter().chain(live::WORKLOADS).copied().collect();
    let all: BTreeSet<&str> = ROWS.iter().map(|row| row.name).collect();
    assert_eq!(run, all);
}
