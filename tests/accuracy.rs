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
    // Longer than any healthy workload sleeps.
    let bounds = ["--hang-after", "1s", "--hang-after", "sleepers=6s"];
    let run = run_workload(row.name, cpus).args(["--serial", "none"]).args(bounds);
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
    cpu_hotplug: "cpu-hotplug";
    debugger_prompt: "debugger-prompt";
    fault_loop: "fault-loop";
    forgotten_unlock: "forgotten-unlock";
    heavy_printk: "heavy-printk";
    hog_and_dead: "hog-and-dead";
    holder_halts: "holder-halts";
    holder_offline: "holder-offline";
    holder_spins: "holder-spins";
    interrupt_storm: "interrupt-storm";
    ipi_ack_lost: "ipi-ack-lost";
    ipi_wait: "ipi-wait";
    livelock: "livelock";
    livelock_tasks: "livelock-tasks";
    lock_contention: "lock-contention";
    long_critical_section: "long-critical-section";
    long_irqs_off: "long-irqs-off";
    long_memset: "long-memset";
    long_softirq: "long-softirq";
    lost_timer_tickless: "lost-timer-tickless";
    lost_wakeup: "lost-wakeup";
    lost_wakeup_busy: "lost-wakeup-busy";
    many_ipis: "many-ipis";
    missed_timer: "missed-timer";
    mixed_cycle: "mixed-cycle";
    mutex_contention: "mutex-contention";
    mutex_deadlock: "mutex-deadlock";
    mutex_held_long: "mutex-held-long";
    mutex_holder_computes: "mutex-holder-computes";
    mutex_holder_spins: "mutex-holder-spins";
    nested_panic: "nested-panic";
    offline_halted: "offline-halted";
    one_shot_timers: "one-shot-timers";
    panic_others_spin: "panic-others-spin";
    pause_and_go: "pause-and-go";
    pause_in_irq: "pause-in-irq";
    raw_flags: "raw-flags";
    ready_not_run: "ready-not-run";
    recursion: "recursion";
    rwlock_reader_lost: "rwlock-reader-lost";
    same_code_ab: "same-code-ab";
    same_code_cd: "same-code-cd";
    self_deadlock: "self-deadlock";
    seqlock_writer_stuck: "seqlock-writer-stuck";
    sleeping_holder: "sleeping-holder";
    slow_device: "slow-device";
    slow_device_busy: "slow-device-busy";
    spin_in_calls: "spin-in-calls";
    task_hog: "task-hog";
    three_lock_cycle: "three-lock-cycle";
    ticket_starved: "ticket-starved";
    tickless_idle: "tickless-idle";
    two_roots: "two-roots";
}

#[test]
fn every_workload_is_run_here_or_in_live() {
    let run: BTreeSet<&str> = HERE.iter().chain(live::WORKLOADS).copied().collect();
    let all: BTreeSet<&str> = ROWS.iter().map(|row| row.name).collect();
    assert_eq!(run, all);
}
