//! What a run of the tool looks like from outside: when it says what, and what CPU time of its own it
//! has had by then. Nothing here is what the tool says of itself.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use super::own_time::own_time;

/// From the moment at which a verdict was due, to the one at which it was told.
#[derive(Debug, Clone, Copy)]
pub struct Delay {
    /// The tool's own time.
    pub own: Duration,
    /// By the wall clock.
    pub wall: Duration,
}

/// What was seen of a run.
#[derive(Debug, Default)]
pub struct Seen {
    /// What it printed.
    pub text: String,
    /// How late its first verdict came, of one that becomes due `bound` after the ready mark.
    pub delay: Option<Delay>,
    /// Which share of a core it had for itself while the guest ran.
    pub share: Option<f64>,
}

/// Reads what a run prints on its standard output until it has ended. The share is that of the time
/// from one second after the ready mark until `runs_for` after it.
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
            // What it has had by now, less what it had when the verdict was due, which is known later.
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
    // Nothing is known of one that had ended by then.
    seen.share = (!end.is_zero() && !span.is_zero())
        .then(|| end.saturating_sub(settled).as_secs_f64() / span.as_secs_f64());
    seen
}
