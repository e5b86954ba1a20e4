//! The reservation: the right to ask all CPUs for a backtrace, which one client at a time has.
//!
//! Owns `nmi_print_flag`, the word that names the client. Refuses to own the buffers: a handler can be
//! late, so they have owner words of their own ([`NmiPrintSeq`](super::NmiPrintSeq)). Called by
//! `nmi_backtrace.rs`, and written from outside by the hypervisor.
//!
//! # The client outside
//! 1. Stop all CPUs. Compare-exchange `owner` from 0 to [`RESERVED_BY_HYPERVISOR`](crate::abi), in
//!    guest memory, as one atomic operation. If it is not 0, a CPU of the guest is the client: its
//!    number is `owner` minus 1, and `since_ns` is the time since when. Then set `hypervisor_waits`, let
//!    the CPUs run and try again for a bounded time; clear it, and stop them again.
//! 2. Wipe the text that late handlers have left in buffers whose `owner` is free.
//! 3. Inject the NMIs, let the handlers run, stop the CPUs again, read the buffers, wipe those
//!    whose `owner` is free, as described in [`NmiPrintSeq`](super::NmiPrintSeq)'s module.
//! 4. Store 0 to `owner`, as a release, and nothing else after it.
//!
//! # The final store: a release without a barrier after it
//! The RFC's review asked about the purpose of a barrier after the last `clear_bit`. The holder's accesses
//! under its reservation must be over before the next holder starts, which is what a release store
//! guarantees to the acquire that reads it. No access after the store is part of the protocol, so a
//! barrier after it has nothing to order. `since_ns` is plain memory that the reservation protects, so
//! loom can verify this: with a relaxed store, it finds the next holder's write racing with the last
//! one's (`tests/loom/printk.rs`).

use core::{error, fmt};

use crate::abi::RESERVED_BY_HYPERVISOR;
use crate::sync::atomic::{AtomicU32, Ordering, UnsafeCell, const_fn_unless_loom};

const FREE: u32 = 0;

/// The reservation of all CPUs' NMI print buffers: the RFC's `nmi_print_flag`.
#[derive(Debug)]
pub struct Reservation {
    /// Holder of the reservation. 0: free. n + 1: CPU n of the guest.
    /// [`RESERVED_BY_HYPERVISOR`](crate::abi): the hypervisor.
    owner: AtomicU32,
    /// Nonzero while the hypervisor waits for the reservation, which clients in the guest then do not take. The
    /// hypervisor checks only at intervals: a client that reserved again at once would shut it out.
    hypervisor_waits: AtomicU32,
    /// Time at which the holder took the reservation, in nanoseconds since boot. Undefined while free.
    since_ns: UnsafeCell<u64>,
}

// SAFETY: `since_ns` is written in `try_take` only, by the one whose compare-exchange has just
// moved `owner` from free; the next one's acquire reads the release of the one before.
unsafe impl Sync for Reservation {}

impl Reservation {
    const_fn_unless_loom! {
        /// Makes a free reservation; all its bytes are zero.
        pub fn new() -> Self {
            Self {
                owner: AtomicU32::new(FREE),
                hypervisor_waits: AtomicU32::new(0),
                since_ns: UnsafeCell::new(0),
            }
        }
    }

    /// Takes the reservation for `owner`, or returns its holder. One atomic test-and-set, no wait.
    pub(super) fn try_take(&self, owner: u32, now_ns: u64) -> Result<(), Busy> {
        if self.hypervisor_waits.load(Ordering::Relaxed) != 0 {
            return Err(Busy { holder: RESERVED_BY_HYPERVISOR });
        }
        // Acquire: the last holder's accesses come before this one's.
        self.owner
            .compare_exchange(FREE, owner, Ordering::Acquire, Ordering::Relaxed)
            .map_err(|holder| Busy { holder })?;
        // SAFETY: `owner` was free, and is this caller's since the line above.
        self.since_ns.with_mut(|since_ns| unsafe { since_ns.write(now_ns) });
        Ok(())
    }

    /// Frees the reservation. `order` must be a release; only a model tries another.
    pub(super) fn free(&self, order: Ordering) {
        self.owner.store(FREE, order);
    }

    /// Models the hypervisor: takes the reservation from outside.
    #[cfg(loom)]
    #[doc(hidden)]
    pub fn host_try_take(&self, now_ns: u64) -> Result<(), Busy> {
        self.try_take(crate::abi::RESERVED_BY_HYPERVISOR, now_ns)
    }

    /// Models the hypervisor: frees the reservation from outside.
    #[cfg(loom)]
    #[doc(hidden)]
    pub fn host_free(&self) {
        self.free(Ordering::Release);
    }

    /// Returns the reservation's holder: 0 if it is free, a CPU's number plus 1, or
    /// [`RESERVED_BY_HYPERVISOR`](crate::abi).
    pub fn owner(&self) -> u32 {
        self.owner.load(Ordering::Relaxed)
    }
}

impl Default for Reservation {
    fn default() -> Self {
        Self::new()
    }
}

/// Error of a client: another one is taking a backtrace of all CPUs. The RFC's `EBUSY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    /// Holder of the reservation, as in [`Reservation::owner`].
    pub holder: u32,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.holder {
            crate::abi::RESERVED_BY_HYPERVISOR => f.write_str("reserved by the hypervisor"),
            holder => write!(f, "reserved by cpu{}", holder.wrapping_sub(1)),
        }
    }
}

impl error::Error for Busy {}
