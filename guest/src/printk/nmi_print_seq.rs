//! A CPU's NMI print buffer and the owner word that makes it safe against a late handler.
//!
//! Owns the access to the buffer. Refuses to own the destination of printk
//! ([`PrintkFuncCell`](super::PrintkFuncCell)) and the right to ask for backtraces
//! ([`Reservation`](super::Reservation)). Called by `nmi_backtrace.rs`.
//!
//! # The reason for the owner word
//! In the RFC, the client that has sent the NMIs waits for the handlers, at most 10 s, and then
//! prints and wipes every CPU's buffer. A CPU that was only slow may enter its handler at that
//! very moment: it appends to a buffer that is being read and wiped on another CPU, which tears
//! lines. So both sides claim the buffer first, and neither waits:
//!
//! * The handler's begin claims a free buffer as a writer, its end frees it. If the claim fails,
//!   because a late client is reading, the handler's messages are dropped and counted in `missed`.
//! * The reader claims a free buffer, prints and wipes it, and frees it. If the claim fails, that
//!   CPU is still in its handler, and its buffer is left as it is.
//! * An append has an owner value of its own. A `fmt` implementation that prints, or a fault in the
//!   handler, finds it and counts its message as missed; so there are never two `&mut` to the buffer,
//!   whatever the callers do.
//!
//! # For the host
//! `owner` is one of the constants below. While the CPU is stopped, the first `len` bytes of
//! `buffer` are whole messages, whatever `owner` is. The count of lost messages is `lost` plus
//! `missed`. Wipe (set `len`, `lost` and `missed` to 0) only if `owner` is [`NMI_PRINT_SEQ_FREE`]: a
//! writer stopped between two instructions has them in registers.

use core::fmt;

use super::seq_buf::SeqBuf;
use crate::sync::atomic::{AtomicU32, Ordering, UnsafeCell, const_fn_unless_loom};

/// Size of a CPU's buffer in bytes.
#[cfg(not(loom))]
pub const NMI_BUF_SIZE: usize = 4096;

/// Size of a CPU's buffer in bytes; small, because loom creates one for every interleaving.
#[cfg(loom)]
pub const NMI_BUF_SIZE: usize = 64;

/// Value of `owner`: no handler prints into the buffer, and no client reads it.
pub const NMI_PRINT_SEQ_FREE: u32 = 0;

/// Value of `owner`: the CPU is between begin and end.
pub const NMI_PRINT_SEQ_WRITER: u32 = 1;

/// Value of `owner`: the CPU is between begin and end, and in the middle of a message.
pub const NMI_PRINT_SEQ_APPENDING: u32 = 2;

/// Value of `owner`: a client inside the guest prints the buffer.
pub const NMI_PRINT_SEQ_READER: u32 = 3;

/// A CPU's NMI print buffer: the per-CPU variable `nmi_print_seq`.
#[derive(Debug)]
pub struct NmiPrintSeq {
    owner: AtomicU32,
    /// Count of messages of handlers that did not own the buffer.
    missed: AtomicU32,
    seq: UnsafeCell<SeqBuf<NMI_BUF_SIZE>>,
}

// SAFETY: `seq` is reached in `append` and `try_drain` (and in a model of the host, under loom),
// each only after it has moved `owner` from a value that says "not in use" to one that says "in
// use" with a compare-exchange, and until it moves it back.
unsafe impl Sync for NmiPrintSeq {}

impl NmiPrintSeq {
    const_fn_unless_loom! {
        /// Makes an empty buffer without an owner; all its bytes are zero.
        pub fn new() -> Self {
            Self {
                owner: AtomicU32::new(NMI_PRINT_SEQ_FREE),
                missed: AtomicU32::new(0),
                seq: UnsafeCell::new(SeqBuf::new()),
            }
        }
    }

    /// Claims the buffer for this CPU's NMI handler. If a reader has it, the claim fails, and all messages
    /// until [`NmiPrintSeq::end_write`] count as missed; the caller need not know.
    pub(super) fn begin_write(&self) {
        // Acquire: the reader's wipe comes before this handler's first append.
        let _ = self.claim(NMI_PRINT_SEQ_FREE, NMI_PRINT_SEQ_WRITER);
    }

    /// Ends the handler's claim, if it succeeded.
    pub(super) fn end_write(&self) {
        // Release: the reader that claims the buffer next sees all that was appended. (The release
        // in `append` would carry across a relaxed compare-exchange too; this one is explicit.)
        let _ = self.owner.compare_exchange(
            NMI_PRINT_SEQ_WRITER,
            NMI_PRINT_SEQ_FREE,
            Ordering::Release,
            Ordering::Relaxed,
        );
    }

    /// Appends a message; returns its length, or 0 if it was lost or missed. No lock, no wait.
    pub(super) fn append(&self, args: fmt::Arguments<'_>) -> usize {
        if !self.claim(NMI_PRINT_SEQ_WRITER, NMI_PRINT_SEQ_APPENDING) {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return 0;
        }
        // SAFETY: `owner` went from WRITER to APPENDING right here. Nobody claims the buffer from
        // APPENDING, and only this function leaves it, below.
        let added = self.seq.with_mut(|seq| unsafe { (*seq).append(args) });
        // Release, though the next append is by this CPU too: so that no proof in this file depends on the
        // platform's numbering of CPUs.
        self.owner.store(NMI_PRINT_SEQ_WRITER, Ordering::Release);
        added
    }

    /// Passes the text and the count of lost messages to `read`, then wipes both. Must not be called from
    /// NMI.
    ///
    /// # Errors
    /// The CPU is still in its handler, or another reader has the buffer. Nothing was read.
    pub(super) fn try_drain(&self, read: impl FnOnce(&[u8], u64)) -> Result<(), BufferInUse> {
        if !self.claim(NMI_PRINT_SEQ_FREE, NMI_PRINT_SEQ_READER) {
            return Err(BufferInUse);
        }
        self.seq.with(|seq| {
            // SAFETY: `owner` went from FREE to READER right here. Nobody claims the buffer from
            // READER, and only this function leaves it, below, after the last use of `seq`.
            let seq = unsafe { &*seq };
            let missed = self.missed.swap(0, Ordering::Relaxed);
            read(seq.as_bytes(), u64::from(seq.lost()) + u64::from(missed));
        });
        // SAFETY: as above; the shared reference ended with the closure.
        self.seq.with_mut(|seq| unsafe { (*seq).wipe() });
        // Release: the next handler's appends come after this wipe.
        self.owner.store(NMI_PRINT_SEQ_FREE, Ordering::Release);
        Ok(())
    }

    /// Models the hypervisor: reads the buffer and the count of lost messages from outside; if `owner` is
    /// free, wipes them and returns true.
    ///
    /// # Safety
    /// The CPU that prints into the buffer is stopped, and the caller holds the reservation.
    #[cfg(loom)]
    #[doc(hidden)]
    pub unsafe fn host_read_and_wipe(&self, read: impl FnOnce(&[u8], u64)) -> bool {
        self.seq.with(|seq| {
            // SAFETY: no CPU runs that prints or, by the reservation, reads: the caller's promise.
            let seq = unsafe { &*seq };
            let missed = self.missed.load(Ordering::Relaxed);
            read(seq.as_bytes(), u64::from(seq.lost()) + u64::from(missed));
        });
        if self.owner.load(Ordering::Relaxed) != NMI_PRINT_SEQ_FREE {
            return false;
        }
        // SAFETY: as above; the shared reference ended with the closure.
        self.seq.with_mut(|seq| unsafe { (*seq).wipe() });
        self.missed.store(0, Ordering::Relaxed);
        true
    }

    #[inline]
    fn claim(&self, from: u32, to: u32) -> bool {
        // Acquire: the last owner's accesses to the buffer come before this one's.
        self.owner.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

impl Default for NmiPrintSeq {
    fn default() -> Self {
        Self::new()
    }
}

/// Error of a reader: the buffer has an owner already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BufferInUse;
