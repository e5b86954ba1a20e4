//! Who may ask all CPUs for a backtrace: one client at a time.
//!
//! Owns `nmi_print_flag`, the word that says so. Refuses to own the buffers: a handler can be
//! late, so they have owner words of their own ([`NmiPrintSeq`](super::NmiPrintSeq)). Called by
//! `nmi_backtrace.rs`; and written from outside by the hypervisor.
//!
//! # The client outside
//! 1. Stop all CPUs. Compare-exchange `owner` from 0 to [`RESERVED_BY_HYPERVISOR`](crate::abi), in
//!    guest memory, as one atomic operation. If it is not 0, a CPU of the guest is a client: its
//!    number is `owner` minus 1, and `since_ns` says when it became one. Then set
//!    `hypervisor_waits`, let the CPUs run and try again for as long as seems right; clear it, and
//!    stop them again.
//! 2. Wipe what late handlers have left in buffers whose `owner` is free.
//! 3. Inject the NMIs, let the handlers run, stop the CPUs again, read the buffers, wipe those
//!    whose `owner` is free, as told in [`NmiPrintSeq`](super::NmiPrintSeq)'s module.
//! 4. Store 0 to `owner`, as a release, and nothing else after it.
//!
//! # Why a release, and nothing after it
//! The RFC's review asked what a barrier after the last `clear_bit` is for. What the holder did
//! under its reservation must be over before the next holder starts, which is what a release store
//! promises to the acquire that reads it. Nothing that comes later is anyone's business, so there
//! is nothing for a barrier after it to order. `since_ns` is plain memory that the reservation
//! protects, so loom can tell: with a relaxed store, it finds the next holder's write racing with
//! the last one's (`tests/loom/printk.rs`).

use core::{error, fmt};

use crate::abi::RESERVED_BY_HYPERVISOR;
use crate::sync::atomic::{AtomicU32, Ordering, UnsafeCell, const_fn_unless_loom};

const FREE: u32 = 0;

/// The reservation of all CPUs' NMI print buffers: the RFC's `nmi_print_flag`.
#[derive(Debug)]
pub struct Reservation {
    /// 0: free. n + 1: CPU n of the guest. [`RESERVED_BY_HYPERVISOR`](crate::abi).
    owner: AtomicU32,
    /// Not zero while the hypervisor waits for its turn: clients in the guest stand back. It can
    /// only look now and then, and one that comes back at once would never let it in.
    hypervisor_waits: AtomicU32,
    /// The clock when the holder became it, in nanoseconds since boot. Garbage while free.
    since_ns: UnsafeCell<u64>,
}

// SAFETY: `since_ns` is written in `try_take` only, by the one whose compare-exchange has just
// moved `owner` from free; the next one's acquire reads the release of the one before.
unsafe impl Sync for Reservation {}

impl Reservation {
    const_fn_unless_loom! {
        /// Free; all its bytes are zero.
        pub fn new() -> Self {
            Self {
                owner: AtomicU32::new(FREE),
                hypervisor_waits: AtomicU32::new(0),
                since_ns: UnsafeCell::new(0),
            }
        }
    }

    /// Becomes the only client, or learns who is. One atomic test-and-set, no wait.
    pub(super) fn try_take(&self, owner: u32, now_ns: u64) -> Result<(), Busy> {
        if self.hypervisor_waits.load(Ordering::Relaxed) != 0 {
            return Err(Busy { holder: RESERVED_BY_HYPERVISOR });
        }
        // Acquire: all that the last holder did comes before what this one does.
        self.owner
            .compare_exchange(FREE, owner, Ordering::Acquire, Ordering::Relaxed)
            .map_err(|holder| Busy { holder })?;
        // SAFETY: `owner` was free, and is this caller's since the line above.
        self.since_ns.with_mut(|since_ns| unsafe { since_ns.write(now_ns) });
        Ok(())
    }

    /// Lets the next client in. `order` is a release; only a model has reason to try another.
    pub(super) fn free(&self, order: Ordering) {
        self.owner.store(FREE, order);
    }

    /// What the hypervisor does from outside, for a model.
    #[cfg(loom)]
    #[doc(hidden)]
    pub fn host_try_take(&self, now_ns: u64) -> Result<(), Busy> {
        self.try_take(crate::abi::RESERVED_BY_HYPERVISOR, now_ns)
    }

    /// What the hypervisor does from outside, for a model.
    #[cfg(loom)]
    #[doc(hidden)]
    pub fn host_free(&self) {
        self.free(Ordering::Release);
    }

    /// Who holds the reservation at this moment: 0, or a CPU's number plus 1, or
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

/// Someone else is printing a backtrace of all CPUs: the RFC's `EBUSY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    /// The holder, as in [`Reservation::owner`].
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
