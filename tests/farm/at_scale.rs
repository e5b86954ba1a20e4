//! A farm with far more VMs at a time than the host has CPUs. Tests beside it must not depend on how soon
//! the host runs them.

use std::time::Duration;

use super::site::*;
use crate::common::*;
use nmiscope_farm::event::{EventKind, Status};

#[test]
fn two_hundred_simultaneous_hangs_get_two_hundred_verdicts() {
    let site = Site::new(
        "[[vm]]\nname = 'hang'\nworkload = 'halt-irqs-off'\ncpus = 1\nmemory = '16M'\n\
         hang-after = { general = '1s', starved = '600s' }\nready-within = '600s'\ntime-limit = '900s'\n",
    );
    let all = ["--repeat", "200", "-j", "200", "--memory", "1000G"];
    let farm = site.farm(all).deadline(Duration::from_secs(300)).run().expect_code(exit::HANG);
    let run = Run::from_output(&farm);
    assert_eq!(run.end().counts, [(Status::Hang, 200)].into());
    assert_eq!(run.end().distinct_hangs, 1);
    let running = run.events.iter().scan(0_i32, |running, event| {
        *running += match event.kind {
            EventKind::VmStarted(_) => 1,
            EventKind::VmFinished(_) => -1,
            _ => 0,
        };
        Some(*running)
    });
    // All 200 overlap, unless the first end before the last start.
    assert!(running.max().is_some_and(|most| most >= 100));
}
