//! Data about a vCPU that only unsafe code can read: `kvm_run`'s unions, CPU clocks, and the file of
//! KVM's statistics.
//!
//! Owns those reads; refuses to own their meaning. Called by the vCPU's thread, and by its handle for the
//! clock and the file.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::FromRawFd;
use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_bindings::KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES as HAS_INSTRUCTION;
use kvm_bindings::{KVM_INTERNAL_ERROR_EMULATION, KVMIO};
use kvm_ioctls::VcpuFd;
use tracing::debug;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

// kvm-ioctls does not wrap this ioctl.
ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// Returns suberror and instruction bytes of a KVM_EXIT_INTERNAL_ERROR, which must be the last exit.
pub(super) fn internal_error(vcpu: &mut VcpuFd) -> (u32, Vec<u8>) {
    // SAFETY: every bit pattern is valid for this plain struct of integers, and KVM filled it in,
    // because the last exit is KVM_EXIT_INTERNAL_ERROR; the caller says so.
    let internal = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal };
    let data = &internal.data[..internal.data.len().min(internal.ndata as usize)];
    (internal.suberror, instruction_bytes(internal.suberror, data))
}

/// Returns the instruction bytes in `data` of an emulation failure: flags, one byte of length, 15 bytes
/// of instruction (`kvm_run.emulation_failure`, of which `data` starts at `flags`). Empty if KVM gave none.
fn instruction_bytes(suberror: u32, data: &[u64]) -> Vec<u8> {
    let [flags, low, high, ..] = *data else {
        return Vec::new();
    };
    if suberror != KVM_INTERNAL_ERROR_EMULATION || flags & u64::from(HAS_INSTRUCTION) == 0 {
        return Vec::new();
    }
    let bytes: Vec<u8> = [low, high].iter().flat_map(|word| word.to_le_bytes()).collect();
    let len = usize::from(bytes[0]).min(15);
    bytes[1..=len].to_vec()
}

/// Opens the file of a vCPU's statistics, if KVM keeps any. Blocks while the vCPU runs.
pub(super) fn statistics(vcpu: &VcpuFd) -> Option<File> {
    // SAFETY: this ioctl takes no argument and accesses no memory of ours. A KVM without it says so.
    let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
    if fd < 0 {
        debug!(error = %io::Error::last_os_error(), "KVM_GET_STATS_FD failed");
        return None;
    }
    // SAFETY: the ioctl succeeded, so `fd` is a file that it has just opened, and has no other owner.
    Some(unsafe { File::from_raw_fd(fd) })
}

/// CPU-time clock of a thread, by its clock id.
#[derive(Debug, Clone, Copy)]
pub(super) struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// The clock of the calling thread.
    pub(super) const THIS_THREAD: Self = Self(libc::CLOCK_THREAD_CPUTIME_ID);

    /// Returns the clock of another thread, which exists until the thread is joined.
    pub(super) fn from_thread<T>(thread: &JoinHandle<T>) -> io::Result<Self> {
        let mut clock = MaybeUninit::uninit();
        // SAFETY: `thread` has not been joined, so its pthread_t is valid; `clock` is writable.
        match unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t(), clock.as_mut_ptr()) } {
            // SAFETY: the call succeeded, so it wrote the clock's id.
            0 => Ok(Self(unsafe { clock.assume_init() })),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Returns the CPU time used so far; zero once the thread is gone.
    pub(super) fn now(self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a writable timespec. An unknown clock id only makes the call fail.
        if unsafe { libc::clock_gettime(self.0, &mut time) } != 0 {
            return Duration::ZERO;
        }
        // The kernel returns a normalized time that is not negative.
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruction_bytes_are_read_as_kvm_lays_them_out() {
        // 3 bytes, 0f 57 c0, in memory order after the flags.
        let data = [1, u64::from_le_bytes([3, 0x0f, 0x57, 0xc0, 0, 0, 0, 0]), 0];
        assert_eq!(instruction_bytes(1, &data), [0x0f, 0x57, 0xc0]);
    }

    #[test]
    fn an_instruction_length_out_of_bounds_is_clamped() {
        assert_eq!(instruction_bytes(1, &[1, 0xff, 0]).len(), 15);
    }

    #[test]
    fn instruction_bytes_are_empty_where_kvm_gave_none() {
        assert_eq!(instruction_bytes(1, &[0, 0x0303, 0]), []);
        assert_eq!(instruction_bytes(1, &[1]), []);
        assert_eq!(instruction_bytes(3, &[1, 0x0303, 0]), []);
    }
}
