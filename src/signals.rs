//! Signals to this program: those that ask it to end, which of them count as one, and the end at once.
//!
//! Owns the names of the outputs that would be lost; refuses to own the response to a first signal
//! (`session`, farms). Called by `cli` and `session`.

use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::low_level::{emulate_default_handler, signal_name};

/// Returns the signals that end a run: SIGHUP, SIGINT and SIGTERM. SIGHUP is left out if this process was
/// started with it ignored, as by nohup(1).
pub fn terminating() -> impl Iterator<Item = i32> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let hang_up = (!is_ignored(&status, SIGHUP)).then_some(SIGHUP);
    hang_up.into_iter().chain([SIGINT, SIGTERM])
}

/// Returns true if a signal is ignored, by the contents of `/proc/self/status` (proc(5)).
fn is_ignored(status: &str, signal: i32) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask >> (signal - 1) & 1 != 0)
}

/// Has a write beyond the limit on a file's size (RLIMIT_FSIZE, `ulimit -f`) fail with EFBIG instead of
/// ending this process by SIGXFSZ.
///
/// # Errors
/// The handler cannot be installed.
pub fn outlive_file_size_limit() -> std::io::Result<()> {
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map(drop)
}

/// Returns the name of a signal, as in `SIGINT`.
pub fn name(signal: i32) -> &'static str {
    signal_name(signal).unwrap_or("a signal")
}

/// Filter that joins terminating signals which were meant as one.
///
/// timeout(1) signals its child and then the child's whole process group, a supervisor a process and then
/// its control group or terminal.
#[derive(Debug, Default)]
pub struct Repeats {
    /// Last signal that counted, and its time.
    last: Option<(i32, Instant)>,
}

impl Repeats {
    /// Interval within which equal signals count as one.
    const EQUAL: Duration = Duration::from_secs(1);
    /// Interval within which different signals count as one. A person does not take so little time.
    const DIFFERENT: Duration = Duration::from_millis(200);

    /// Returns true if a signal at time `now` repeats the last one that counted; otherwise it counts.
    pub fn is_repeat(&mut self, signal: i32, now: Instant) -> bool {
        let repeats = self.last.is_some_and(|(last, at)| {
            let interval = if signal == last { Self::EQUAL } else { Self::DIFFERENT };
            now.saturating_duration_since(at) < interval
        });
        if !repeats {
            self.last = Some((signal, now));
        }
        repeats
    }
}

/// Outputs of this program that are not written yet, by the words that name them in a message.
#[derive(Debug, Clone, Default)]
pub struct Unwritten(Arc<Mutex<Vec<String>>>);

impl Unwritten {
    /// Creates a list of outputs.
    pub fn new(outputs: impl IntoIterator<Item = String>) -> Self {
        Self(Arc::new(Mutex::new(outputs.into_iter().collect())))
    }

    /// Removes an output that has been written.
    pub fn written(&self, output: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|name| name != output);
    }

    /// Returns the names of all outputs, separated by commas.
    fn list(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).join(", ")
    }

    /// Ends this process by the default action of a terminating signal, after a message on standard error
    /// that names the outputs which are lost.
    pub fn end_at_once(&self, signal: i32) -> ! {
        let lost = match self.list() {
            list if list.is_empty() => "nothing is lost".to_owned(),
            list => format!("lost: {list}"),
        };
        print_unlocked(&format!("error: ended at once by {}; {lost}\n", name(signal)));
        let _ = emulate_default_handler(signal);
        // The default action of a signal that has none would be to ignore it.
        std::process::abort()
    }
}

/// Prints to standard error past its lock, which a thread that waits for a slow reader may hold. Prints
/// nothing where the write would wait too.
fn print_unlocked(text: &str) {
    let stderr = rustix::stdio::stderr();
    let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
    if poll(&mut ready, Some(&Timespec::default())).is_ok_and(|count| count > 0) {
        // An error cannot be reported anywhere.
        let _ = rustix::io::write(stderr, nmiscope_report::sanitize::lines(text).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_with_its_bit_in_sigign_is_ignored() {
        let status = "SigBlk:\tffffffffffffffff\nSigIgn:\t0000000000000001\n";
        assert!(is_ignored(status, SIGHUP));
        assert!(!is_ignored(status, SIGINT));
        assert!(!is_ignored("", SIGHUP));
    }

    #[test]
    fn equal_signals_within_a_second_of_the_first_are_one() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let mut at =
            |signal, after| repeats.is_repeat(signal, start + Duration::from_millis(after));
        assert!(!at(SIGTERM, 0));
        assert!(at(SIGTERM, 10));
        assert!(at(SIGTERM, 999));
        assert!(!at(SIGTERM, 1000));
        assert!(at(SIGTERM, 1999));
    }

    #[test]
    fn different_signals_are_one_within_a_fifth_of_a_second() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let mut at =
            |signal, after| repeats.is_repeat(signal, start + Duration::from_millis(after));
        assert!(!at(SIGINT, 0));
        assert!(at(SIGTERM, 199));
        // The signal before was a repeat of SIGINT, so that this is the second one.
        assert!(!at(SIGTERM, 200));
    }

    #[test]
    fn written_outputs_are_not_lost() {
        let unwritten = Unwritten::new(["the report a.json".into(), "the core b.core".into()]);
        assert_eq!(unwritten.list(), "the report a.json, the core b.core");
        unwritten.written("the report a.json");
        assert_eq!(unwritten.list(), "the core b.core");
    }
}
