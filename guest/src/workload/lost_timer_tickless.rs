//! Hangs CPU n/2, which idles and has forgotten to arm its one-shot timer. The others are tickless and idle
//! too, with their timers armed for in five seconds.
//!
//! Expect: hard-lockup
//! Blamed: n/2
//! Frames: n/2: cpu_main
//! Frames: others: cpu_main

use super::{Next, Workload, is_culprit};
use crate::machine;

pub static WORKLOAD: Workload = Workload { name: "lost-timer-tickless", min_cpus: 1, step };

fn step(cpu: usize) -> Next {
    machine::one_tick_in(if is_culprit(cpu) { 10_000_000 } else { 5_000_000_000 });
    if is_culprit(cpu) {
        // The timer expires, and the loop forgets to arm it.
        machine::wait_for_interrupt();
        machine::stop_tick();
    }
    Next::Wait
}
