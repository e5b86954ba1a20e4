//! A farm with more VMs at a time than the machine has any business to run. A program of its own, so
//! that no other test runs beside it.

mod common;
#[path = "farm/site.rs"]
#[allow(dead_code, reason = "each test binary uses its own part of this")]
mod site;

use std::time::Duration;

use common::*;
use nmiscope::farm::event::{Status, What};
use site::*;

#[test]
fn a_thousand_vms_that_all_hang_at_once_are_a_thousand_verdicts() {
    let site = Site::new(
        "[[vm]]\nname = 'hang'\nworkload = 'halt-irqs-off'\ncpus = 1\nmemory = '16M'\n\
         hang-after = { general = '1s', starved = '600s' }\nready-within = '600s'\ntime-limit = '900s'\n",
    );
    let all = ["--repeat", "1000", "-j", "1000", "--memory", "1000G"];
    let farm = site.farm(all).deadline(Duration::from_secs(300)).run().expect_code(exit::HANG);
    let run = Run::of(&farm);
    assert_eq!(run.end().counts, [(Status::Hang, 1000)].into());
    assert_eq!(run.end().distinct_hangs, 1);
    let running = run.events.iter().scan(0_i32, |running, event| {
        *running += match event.what {
            What::VmStarted(_) => 1,
            What::VmFinished(_) => -1,
            _ => 0,
        };
        Some(*running)
    });
    // All of them, unless the first ones are quicker than the last ones start.
    assert!(running.max().is_some_and(|most| most >= 500));
}
