//! The CPU time of the tool itself, without its vCPU threads, as the kernel counts it.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// CPU time of a process's threads, except vCPU threads and the thread called `except`. `process` is a
/// process number or `self`. Zero if the process has ended.
pub fn own_time(process: &str, except: Option<&str>) -> Duration {
    let Ok(threads) = fs::read_dir(Path::new("/proc").join(process).join("task")) else {
        return Duration::ZERO;
    };
    let nanoseconds = threads.flatten().filter_map(|thread| {
        let name = fs::read_to_string(thread.path().join("comm")).ok()?;
        if name.starts_with("vcpu") || Some(name.trim_end()) == except {
            return None;
        }
        let statistics = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        statistics.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}
