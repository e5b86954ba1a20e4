//! Signatures of hangs and their names in the text: the same for the same hang whatever was interrupted, and
//! others for other locks. What a CPU waits for that no record of the kernel shows.

use std::collections::BTreeSet;

use crate::common::*;
use nmiscope::hang::Class;
use nmiscope_report::{Fact, HandlerKind, Hang, Outcome, Report, Source};

/// Runs a workload until it hangs.
fn hung(workload: &str, cpus: u32, arguments: &[&str]) -> Finished {
    let run = run_workload(workload, cpus).args(["--hang-after", "300ms", "--serial", "none"]);
    run.args(arguments).run().expect_code(exit::HANG)
}

fn signature(workload: &str, cpus: u32) -> String {
    only_hang(&hung(workload, cpus, &[]).report()).signature.clone()
}

/// Each run interrupts another function, by chance.
#[test]
fn a_handler_that_spins_has_one_signature_whatever_it_has_interrupted() {
    let (mut signatures, mut interrupted) = (BTreeSet::new(), BTreeSet::new());
    for cpus in [1, 2, 3].into_iter().cycle().take(9) {
        let finished = hung("pause-in-irq", cpus, &[]);
        let report = finished.report();
        let hang = only_hang(&report);
        signatures.insert(hang.signature.clone());
        let is_interrupt = |fact: &Fact| {
            matches!(fact, Fact::StoppedAt { handler: Some(HandlerKind::Interrupt), .. })
        };
        let blamed = format!("cpu{}", cpus / 2);
        let fact = hang.evidence.iter().find(|evidence| is_interrupt(&evidence.fact));
        assert_eq!(fact.map(|evidence| &evidence.party), Some(&blamed), "{}", finished.all());
        assert!(finished.stdout.contains(", in an interrupt handler  "), "{}", finished.all());
        let cpu = &report.backtraces[0].cpus[cpus as usize / 2];
        let colours = ["red", "green", "blue", "grey"];
        interrupted
            .extend(seen_functions(cpu).into_iter().filter(|name| colours.contains(&&**name)));
    }
    assert_eq!(signatures.len(), 1, "{signatures:?}");
    assert!(interrupted.len() > 1, "one function was interrupted each time: {interrupted:?}");
}

#[test]
fn a_fault_that_is_raised_again_and_again_has_one_signature() {
    let mut signatures = BTreeSet::new();
    for cpus in [1, 2, 3, 1, 2] {
        let finished = hung("fault-loop", cpus, &[]);
        let report = finished.report();
        signatures.insert(only_hang(&report).signature.clone());
        let place = format!("  cpu{} in read_page", cpus / 2);
        assert!(finished.stdout.contains(&place), "{}", finished.all());
    }
    assert_eq!(signatures.len(), 1, "{signatures:?}");
}

#[test]
fn deadlocks_of_one_function_over_two_pairs_of_locks_have_two_signatures() {
    let [one, other] = ["same-code-ab", "same-code-cd"].map(|workload| signature(workload, 2));
    assert_ne!(one, other);
    assert_eq!(signature("same-code-ab", 3), one);
    assert_eq!(signature("same-code-cd", 3), other);
}

#[test]
fn a_lock_that_only_a_victim_waits_for_has_its_name() {
    let finished = hung("mixed-cycle", 3, &[]);
    let victim = "  victims: task bystander on cpu2 waits for PAGE_MUTEX\n";
    assert!(finished.stdout.contains(victim), "{}", finished.all());
}

/// Hundreds of lines follow the message.
#[test]
fn the_message_of_a_panic_is_found_before_a_long_call_trace() {
    for cpus in [1, 2, 4] {
        let finished = run_workload("recursion", cpus).args(["--serial", "none"]).run();
        let report = finished.report();
        let Outcome::Panic { cpu, message: Some(message) } = &report.outcome else {
            panic!("{}", finished.all())
        };
        assert_eq!((*cpu, message.starts_with("page fault at ")), (cpus / 2, true), "{message}");
        let mut tail = report.console_tail.iter();
        let in_tail = tail.any(|line| line.contains("Kernel panic"));
        assert!(cpus == 1 || !in_tail, "{}", finished.all());
    }
}

/// The words of a hang that CPUs spin on: symbol, parties, and writers with the stacks that they are on.
type Words<'a> = Vec<(&'a str, Vec<&'a str>, Vec<(&'a str, &'a str)>)>;

fn words(hang: &Hang) -> Words<'_> {
    let mut words: Words<'_> = hang
        .spins
        .iter()
        .map(|spin| {
            let symbol = nmiscope_report::short_name(spin.symbol.as_deref().unwrap_or("?"));
            let writers = spin.writers.iter();
            let writers = writers.map(|writer| (&writer.function[..], &writer.party[..])).collect();
            (symbol, spin.parties.iter().map(String::as_str).collect(), writers)
        })
        .collect();
    words.sort_unstable();
    words
}

#[test]
fn words_without_a_record_are_named_with_readers_and_writers() {
    let rows: [(&str, Words<'_>); 4] = [
        (
            "seqlock-writer-stuck",
            vec![("TIME_SEQUENCE", vec!["cpu2"], vec![("write_time", "cpu0")])],
        ),
        ("rwlock-reader-lost", vec![("TABLE_READERS", vec!["cpu0", "cpu1"], vec![])]),
        (
            "raw-flags",
            vec![
                ("REQUEST", vec!["cpu2"], vec![("ask", "cpu0")]),
                ("SERVER_IS_READY", vec!["cpu0"], vec![("serve", "cpu2")]),
            ],
        ),
        ("ipi-ack-lost", vec![("FLUSHES_ACKNOWLEDGED", vec!["cpu0", "cpu1"], vec![])]),
    ];
    for (workload, wanted) in rows {
        let finished = hung(workload, 3, &[]);
        let report = finished.report();
        let hang = only_hang(&report);
        assert_eq!((hang.class, words(hang)), (Class::SoftLockup, wanted), "{}", finished.all());
    }
}

#[test]
fn words_that_cpus_spin_on_are_in_text_and_core() {
    let finished = hung("raw-flags", 2, &["--core", "guest.core"]);
    for line in [
        "  cpu0 spins reading SERVER_IS_READY; serve on the stack of cpu1 writes it\n",
        "  cpu1 spins reading REQUEST; ask on the stack of cpu0 writes it\n",
    ] {
        assert!(finished.stdout.contains(line), "{}", finished.all());
    }
    let core = finished.directory.path().join("guest.core");
    let again = nmiscope(["report"]).arg(core).with_report().run().expect_code(exit::HANG);
    assert_eq!(Report { source: Source::Live, ..again.report() }, finished.report());
    let lost = hung("ipi-ack-lost", 3, &[]);
    let line = "  cpu0 and cpu1 spin reading FLUSHES_ACKNOWLEDGED; \
                no function on a stack is seen to write it\n";
    assert!(lost.stdout.contains(line), "{}", lost.all());
}

/// Workloads that read words in loops too, and wait for none.
#[test]
fn cpus_that_wait_for_no_word_are_not_said_to() {
    for workload in ["spin-irqs-on", "spin-irqs-off", "spin-in-calls", "task-hog", "pause-in-irq"] {
        let finished = hung(workload, 2, &[]);
        assert!(only_hang(&finished.report()).spins.is_empty(), "{}", finished.all());
    }
}
