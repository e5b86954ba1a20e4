//! The end of a healthy run: once each of its vCPUs has had enough own time for a false alarm to show.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Ends a run by SIGINT once `at_least` has passed since its start and each vCPU has had `own` of its own
/// time: time in which the host did not let it wait, without the time for which the run was `stopped`. The
/// thread returns the least own time of a vCPU as a multiple of `bound`.
pub fn end_after(
    process: u32,
    at_least: Duration,
    own: Duration,
    stopped: Duration,
    bound: Duration,
) -> JoinHandle<f64> {
    const INTERVAL: Duration = Duration::from_millis(100);
    let started = Instant::now();
    thread::spawn(move || {
        let mut least = Duration::ZERO;
        // A run that has ended by itself has no vCPUs left.
        while let Some(vcpus) = vcpus(process) {
            let waited = vcpus.iter().map(|vcpu| waited(vcpu)).max().unwrap_or_default();
            // The run may have started a little before; it was stopped before this began.
            let had = started.elapsed().saturating_sub(waited);
            if had >= own && started.elapsed() + stopped >= at_least {
                least = had;
                let pid = Pid::from_raw(process as i32).expect("a process");
                let _ = kill_process(pid, Signal::INT);
                break;
            }
            thread::sleep(INTERVAL);
        }
        least.as_secs_f64() / bound.as_secs_f64()
    })
}

/// Returns the folders of a process's vCPU threads; `None` once it has ended.
fn vcpus(process: u32) -> Option<Vec<PathBuf>> {
    let tasks = Path::new("/proc").join(process.to_string()).join("task");
    let is_zombie = |stat: &str| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'));
    let stat = fs::read_to_string(tasks.parent()?.join("stat")).ok()?;
    if is_zombie(&stat) {
        return None;
    }
    let threads = fs::read_dir(tasks).ok()?.flatten().map(|thread| thread.path());
    let is_vcpu = |thread: &PathBuf| {
        fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.starts_with("vcpu"))
    };
    Some(threads.filter(is_vcpu).collect())
}

/// Returns the time for which a thread could have run and has waited for a core (the second number of
/// /proc/PID/task/TID/schedstat, in nanoseconds; Linux, Documentation/scheduler/sched-stats.rst).
fn waited(thread: &Path) -> Duration {
    let statistics = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    let delay = statistics.split(' ').nth(1).and_then(|delay| delay.trim().parse().ok());
    Duration::from_nanos(delay.unwrap_or(0))
}
