//! What a VM tells its owner without being asked.
//!
//! Owns the enum that leaves this crate through `Config::events`; refuses to own how events come
//! about (`exits`, `devices`) and what to do about them. Used by every vCPU thread.

use std::time::Instant;

use nmiscope_machine::Outcome;

/// Something the guest did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum VmEvent {
    /// The guest wrote a byte to the POST port.
    Post {
        /// The vCPU that wrote.
        cpu: u32,
        /// What it wrote.
        code: u8,
        /// When its exit arrived.
        at: Instant,
    },
    /// An NMI handler finished while nobody waited for it in `Vm::run_nmi`.
    NmiDone {
        /// The vCPU whose handler it was.
        cpu: u32,
        /// When its exit arrived.
        at: Instant,
    },
    /// The VM is over. Sent once, for the first vCPU that ended; the others still exist and may
    /// still run: pause them to look, or shut the VM down.
    Ended(Outcome),
}
