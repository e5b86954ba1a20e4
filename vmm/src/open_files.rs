//! The limit on this process's open files.
//!
//! Owns how many files a watched vCPU takes; refuses to own the files themselves (`vcpu`). Called by
//! `vm`, before there are any.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Makes room for the files that it takes to watch each of `cpus` vCPUs: raises the soft limit, up to
/// the hard one, if need be. The usual soft limit of 1024 is not enough for more than 200 vCPUs.
/// Returns false where the hard limit is too low.
pub(crate) fn raise_limit(cpus: u32) -> bool {
    /// The vCPU itself, its thread's `stat` and `schedstat`, its statistics.
    const PER_VCPU: u64 = 4;
    const OTHERS: u64 = 128;
    let needed = u64::from(cpus) * PER_VCPU + OTHERS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return true;
    }
    let raised = Rlimit { current: Some(needed), ..limit };
    limit.maximum.is_none_or(|maximum| maximum >= needed)
        && setrlimit(Resource::Nofile, raised).is_ok()
}
