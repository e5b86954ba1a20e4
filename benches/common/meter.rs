//! The output of a run, and the CPU time that the tool has used by each line of it. Measured from outside:
//! nothing here relies on the tool's own report.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use super::own_time::own_time;

/// Time from the moment at which a verdict was due to the line that reported it.
#[derive(Debug, Clone, Copy)]
pub struct Delay {
    /// The CPU time of the tool's own threads.
    pub own: Duration,
    /// The time by the wall clock.
    pub wall: Duration,
}

/// The observations of a run from outside.
#[derive(Debug, Default)]
pub struct Seen {
    /// The lines that the run printed.
    pub text: String,
    /// The delay of the first verdict, which is due `bound` after the ready mark; `None` without a verdict.
    pub delay: Option<Delay>,
    /// The tool's own CPU time as a share of a core while the guest ran; `None` if it was not measured.
    pub share: Option<f64>,
}

/// Reads the standard output of a run until it ends. The share is measured from a second after the ready
/// mark until `runs_for` after it.
pub fn watch(child: &mut Child, bound: Duration, runs_for: Duration) -> Seen {
    const SETTLED: Duration = Duration::from_secs(1);
    let process = child.id().to_string();
    let time_at = |at: Instant| {
        let process = process.clone();
        thread::spawn(move || {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            own_time(&process, None)
        })
    };
    let mut seen = Seen::default();
    let mut ready = None;
    let mut meters = None;
    let stdout = child.stdout.take().expect("its standard output");
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let now = Instant::now();
        seen.text.push_str(&line);
        seen.text.push('\n');
        if ready.is_none() && line.starts_with("guest ready: ") {
            ready = Some(now);
            let at = [bound, SETTLED, runs_for].map(|after| time_at(now + after));
            meters = Some(at);
        }
        if let (None, Some(ready), true) = (seen.delay, ready, line.starts_with("hang: ")) {
            // The CPU time so far; the part up to the due time is subtracted below, once it is known.
            let own = own_time(&process, None);
            let wall = now.saturating_duration_since(ready + bound);
            seen.delay = Some(Delay { own, wall });
        }
    }
    let Some([due, settled, end]) =
        meters.map(|meters| meters.map(|meter| meter.join().expect("/proc can be read")))
    else {
        return seen;
    };
    if let Some(delay) = &mut seen.delay {
        delay.own = delay.own.saturating_sub(due);
    }
    let span = runs_for.saturating_sub(SETTLED);
    // A process that had ended by then has no share.
    seen.share = (!end.is_zero() && !span.is_zero())
        .then(|| end.saturating_sub(settled).as_secs_f64() / span.as_secs_f64());
    seen
}
