//! Kicks: getting a vCPU thread out of KVM_RUN without losing the request or racing its entry.
//!
//! Owns the signal and the `immediate_exit` byte; refuses to own the thread's next step (`thread`).
//! Called by the vCPU's handle to kick, by its thread to rearm.
//!
//! A signal alone is not enough: one that arrives just before KVM_RUN interrupts nothing. So the
//! handle first queues its command, then sets `immediate_exit` in the `kvm_run` page, which makes
//! the next KVM_RUN return at once, then signals, which ends the current one. The thread clears the
//! byte *before* it drains its queue: a command queued after the drain finds the byte clear, and
//! its kick sets it again (Linux, Documentation/virt/kvm/api.rst, `immediate_exit`).

use std::io;
use std::mem::offset_of;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use memmap2::{MmapOptions, MmapRaw};
use vmm_sys_util::errno;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// Returns the number of the signal that interrupts KVM_RUN. Its handler does nothing: to interrupt a
/// call, a signal has to be caught.
pub(super) fn signal() -> libc::c_int {
    SIGRTMIN()
}

/// Installs the signal's handler, once per process.
pub(super) fn install_handler() -> io::Result<()> {
    extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    static INSTALLED: OnceLock<Result<(), errno::Error>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| register_signal_handler(signal(), ignore));
    (*installed).map_err(io::Error::from)
}

/// A vCPU's `immediate_exit` byte, in a second mapping of its `kvm_run` page: kvm-ioctls keeps the first
/// one for the thread that runs the vCPU.
#[derive(Debug)]
pub(super) struct ImmediateExit(MmapRaw);

impl ImmediateExit {
    /// Maps the `kvm_run` page of `vcpu` once more.
    pub(super) fn map(vcpu: &VcpuFd) -> io::Result<Self> {
        let page = MmapOptions::new().len(size_of::<kvm_run>()).map_raw(vcpu)?;
        Ok(Self(page))
    }

    /// Makes the next KVM_RUN finish a pending port or memory access and return EINTR.
    pub(super) fn set(&self) {
        // Release: a thread that sees the byte set also sees the command that was queued before it.
        self.byte().store(1, Ordering::Release);
    }

    /// Lets KVM_RUN enter the guest again. The caller reads its command queue next.
    pub(super) fn clear(&self) {
        // A swap, because reads of the queue must not be reordered before it.
        self.byte().swap(0, Ordering::AcqRel);
    }

    fn byte(&self) -> &AtomicU8 {
        // SAFETY: `map` mapped a whole kvm_run readable and writable, and `self` keeps it mapped for
        // as long as the reference lives, so the byte is in bounds. An AtomicU8 has no alignment to
        // violate. Both sides in this process access it through this function alone, and KVM reads
        // it with READ_ONCE, so all accesses are atomic.
        unsafe { AtomicU8::from_ptr(self.0.as_mut_ptr().add(offset_of!(kvm_run, immediate_exit))) }
    }
}
