//! The limit on this process's open files.
//!
//! Owns the number of files that a watched vCPU needs; refuses to own the files themselves (`vcpu`).
//! Called by `vm`, before it opens any.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's soft limit, up to the hard one, to the number of files that it takes to watch
/// `cpus` vCPUs. Returns false if the hard limit is too low. The usual soft limit of 1024 is enough for
/// some 200 vCPUs.
pub(crate) fn raise_limit(cpus: u32) -> bool {
    /// Files of a vCPU: the vCPU itself, its thread's `stat` and `schedstat`, KVM's statistics.
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
