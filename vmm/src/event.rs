//! Events that a VM reports to its owner.
//!
//! Owns the enum that leaves this crate through `Config::events`; refuses to own the causes of events
//! (`exits`, `devices`) and the reaction to them. Used by every vCPU thread.

use std::time::Instant;

use nmiscope_machine::Outcome;

/// An event of a running VM, reported by the thread of the vCPU that caused it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum VmEvent {
    /// The guest wrote a byte to the POST port.
    Post {
        /// Number of the vCPU that wrote it.
        cpu: u32,
        /// The byte that was written.
        code: u8,
        /// Time at which the vCPU's exit arrived.
        at: Instant,
    },
    /// An NMI handler finished outside of `Vm::run_nmi`, which waits for its own.
    NmiDone {
        /// Number of the vCPU that ran the handler.
        cpu: u32,
        /// Time at which the vCPU's exit arrived.
        at: Instant,
    },
    /// The VM has ended. Sent once, for the first vCPU that ended; the others still exist and may still
    /// run: pause them to read their state, or shut the VM down.
    Ended(Outcome),
}
