//! CPUs and memory of the host, and the share of each VM. A farm that gives away more than the host has
//! finds hangs that it caused itself.
//!
//! Owns the amounts and their limits by affinity, quota and control group; refuses to own the order of
//! runs (`queue`). Called by the runner and the command line.

use std::fs;
use std::path::{Path, PathBuf};

/// An amount of CPUs and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Number of CPUs of the host.
    pub cpus: u32,
    /// Bytes of the host's memory.
    pub memory: u64,
}

/// Bytes that a VM needs besides its guest's memory: for its process, and for the image with its symbols.
const OVERHEAD: u64 = 32 << 20;

impl Resources {
    /// Measures what this process may use of the host: the CPUs allowed by affinity and quota, and three
    /// quarters of the available memory. The rest is left to the host.
    pub fn available() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u32;
        Self { cpus, memory: available_memory().unwrap_or(u64::MAX) / 4 * 3 }
    }

    /// Returns the share of a VM with that many vCPUs and bytes of memory. A VM larger than the whole gets
    /// the whole and runs alone.
    pub fn share(&self, vcpus: u32, memory: u64) -> Self {
        Self {
            cpus: vcpus.clamp(1, self.cpus.max(1)),
            memory: memory.saturating_add(OVERHEAD).min(self.memory),
        }
    }

    /// Returns the rest without `share`; `None` if there is less than that.
    pub fn without(&self, share: Self) -> Option<Self> {
        Some(Self {
            cpus: self.cpus.checked_sub(share.cpus)?,
            memory: self.memory.checked_sub(share.memory)?,
        })
    }

    /// Returns the sum with `share` given back.
    pub fn with(&self, share: Self) -> Self {
        Self { cpus: self.cpus + share.cpus, memory: self.memory.saturating_add(share.memory) }
    }
}

/// Returns the bytes of memory available without swapping, on the host and in each control group of this
/// process.
fn available_memory() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(mem_available);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = groups.lines().filter_map(group_limits).flatten().filter_map(|group| {
        let read = |file: &str| -> Option<u64> {
            fs::read_to_string(group.directory.join(file)).ok()?.trim().parse().ok()
        };
        let statistics =
            fs::read_to_string(group.directory.join("memory.stat")).unwrap_or_default();
        // Inactive page cache is reclaimed when memory is needed.
        let used = read(group.used).unwrap_or(0).saturating_sub(inactive_file(&statistics));
        // The value `max` is no number and stands for no limit.
        Some(read(group.limit)?.saturating_sub(used))
    });
    groups.chain(meminfo).min()
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Returns the bytes of inactive page cache in a control group's `memory.stat`, nested groups included, as
/// they are in the group's usage.
fn inactive_file(statistics: &str) -> u64 {
    let value = |name: &str| -> Option<u64> {
        let line = statistics.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    value("total_inactive_file ").or_else(|| value("inactive_file ")).unwrap_or(0)
}

/// A control group with the names of its memory limit's files.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    directory: PathBuf,
    limit: &'static str,
    used: &'static str,
}

/// Parses a line of `/proc/self/cgroup` into that group and its ancestors; `None` if they do not limit
/// memory. Lines are `0::/PATH` in version 2 of control groups, `N:memory:/PATH` in version 1.
fn group_limits(line: &str) -> Option<Vec<Group>> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (root, limit, used) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
        _ if controllers.split(',').any(|controller| controller == "memory") => {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        }
        _ => return None,
    };
    let ancestors = Path::new(path.trim_start_matches('/')).ancestors();
    let group = |path: &Path| Group { directory: Path::new(root).join(path), limit, used };
    Some(ancestors.map(group).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Resources = Resources { cpus: 4, memory: 1 << 30 };

    #[test]
    fn shares_of_vms_never_exceed_the_hosts_resources() {
        let two = ALL.share(2, 64 << 20);
        let left = ALL.without(two).and_then(|left| left.without(two)).unwrap();
        assert_eq!((left.cpus, left.memory), (0, (1 << 30) - 2 * (96 << 20)));
        assert_eq!(left.without(ALL.share(1, 0)), None, "no CPU is left");
        assert_eq!(left.with(two).with(two), ALL);
    }

    #[test]
    fn a_vm_larger_than_the_host_runs_alone() {
        for (vcpus, memory) in [(64, 1 << 20), (1, u64::MAX)] {
            let share = ALL.share(vcpus, memory);
            let left = ALL.without(share).expect("it may run");
            assert_eq!(left.without(ALL.share(1, 64 << 20)), None, "and no other VM");
        }
    }

    #[test]
    fn available_memory_is_the_least_of_host_and_control_groups() {
        let meminfo = "MemTotal:  100 kB\nMemAvailable:    60 kB\n";
        assert_eq!(mem_available(meminfo), Some(60 << 10));
        assert_eq!(mem_available("MemTotal: 1 kB\n"), None);
        let statistics = "active_file 1\ninactive_file 4096\n";
        assert_eq!(inactive_file(statistics), 4096);
        assert_eq!(inactive_file(&format!("{statistics}total_inactive_file 8192\n")), 8192);
        assert_eq!(inactive_file(""), 0);
        let directories = |line: &str| -> Vec<String> {
            let groups = group_limits(line).unwrap_or_default();
            groups.iter().map(|group| group.directory.display().to_string()).collect()
        };
        let v2 = ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup/"];
        assert_eq!(directories("0::/a/b"), v2);
        let v1 = ["/sys/fs/cgroup/memory/x", "/sys/fs/cgroup/memory/"];
        assert_eq!(directories("4:hugetlb,memory:/x"), v1);
        assert_eq!(directories("3:cpuset:/"), [""; 0]);
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
