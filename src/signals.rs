//! The signals that ask this program to end.

use std::fs;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

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
}
