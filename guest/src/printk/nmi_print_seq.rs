//! A CPU's NMI print buffer and the owner word that makes it safe against a late handler.
//!
//! Owns who may touch the buffer when. Refuses to own where printk goes
//! ([`PrintkFuncCell`](super::PrintkFuncCell)) and who may ask for backtraces
//! ([`Reservation`](super::Reservation)). Called by `nmi_backtrace.rs`.
//!
//! # Why there is an owner word
//! In the RFC, the client that has sent the NMIs waits for the handlers, at most 10 s, and then
//! prints and wipes every CPU's buffer. A CPU that was only slow may enter its handler at that
//! very moment: it appends to a buffer that is being read and wiped on another CPU, and lines come
//! out torn. So both sides claim the buffer first, and neither waits:
//!
//! * The handler's begin claims a free buffer as a writer, its end frees it. If the claim fails,
//!   because a late client is reading, what the handler prints is dropped and counted in `missed`.
//! * The reader claims a free buffer, prints and wipes it, and frees it. If the claim fails, that
//!   CPU is still in its handler, and its buffer is left as it is.
//! * During an append the word says so. A `fmt` implementation that prints, or a fault in the
//!   handler, finds that out and counts its message as missed; nothing ever has two `&mut` to the
//!   buffer, whatever the callers do.
//!
//! # For the host
//! `owner` is one of the constants below. While the CPU is stopped, the first `len` bytes of
//! `buffer` are whole messages, whatever `owner` says. What was lost is `lost` plus `missed`. Wipe
//! (`len`, `lost`, `missed` to 0) only where `owner` is [`NMI_PRINT_SEQ_FREE`]: a writer stopped
//! between two instructions has these in registers.

use core::fmt;

use super::seq_buf::SeqBuf;
use crate::sync::atomic::{AtomicU32, Ordering, UnsafeCell, const_fn_unless_loom};

/// Size of a CPU's buffer in bytes.
#[cfg(not(loom))]
pub const NMI_BUF_SIZE: usize = 4096;

/// Size of a CPU's buffer in bytes; small, since loom makes it anew for every interleaving.
#[cfg(loom)]
pub const NMI_BUF_SIZE: usize = 64;

/// `owner`: no handler prints into the buffer, and nobody reads it.
pub const NMI_PRINT_SEQ_FREE: u32 = 0;

/// `owner`: the CPU is between begin and end.
pub const NMI_PRINT_SEQ_WRITER: u32 = 1;

/// `owner`: as [`NMI_PRINT_SEQ_WRITER`], and in the middle of a message.
pub const NMI_PRINT_SEQ_APPENDING: u32 = 2;

/// `owner`: a client inside the guest prints the buffer.
pub const NMI_PRINT_SEQ_READER: u32 = 3;

/// The per-CPU variable `nmi_print_seq`. All its bytes are zero in the beginning.
#[derive(Debug)]
pub struct NmiPrintSeq {
    owner: AtomicU32,
    /// Messages of a handler that did not own the buffer.
    missed: AtomicU32,
    seq: UnsafeCell<SeqBuf<NMI_BUF_SIZE>>,
}

// SAFETY: `seq` is reached in `append` and `try_drain` (and in a model of the host, under loom),
// each only after it has moved `owner` from a value that says "not in use" to one that says "in
// use" with a compare-exchange, and until it moves it back.
unsafe impl Sync for NmiPrintSeq {}

impl NmiPrintSeq {
    const_fn_unless_loom! {
        /// An empty buffer that nobody owns.
        pub fn new() -> Self {
            Self {
                owner: AtomicU32::new(NMI_PRINT_SEQ_FREE),
                missed: AtomicU32::new(0),
                seq: UnsafeCell::new(SeqBuf::new()),
            }
        }
    }

    /// The handler's claim, from this CPU's NMI. When a reader has the buffer it fails, and until
    /// [`NmiPrintSeq::end_write`] everything counts as missed; the caller need not know.
    pub(super) fn begin_write(&self) {
        // Acquire: the reader's wipe comes before this handler's first append.
        let _ = self.claim(NMI_PRINT_SEQ_FREE, NMI_PRINT_SEQ_WRITER);
    }

    /// Ends the handler's claim, if it had one.
    pub(super) fn end_write(&self) {
        // Release: the reader that claims the buffer next sees all that was appended. (The release
        // in `append` would carry across a relaxed compare-exchange too; this one says what is
        // meant.)
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
        // Release, though the next to append is this same CPU: so no proof in this file has to
        // trust the platform to know which CPU is which.
        self.owner.store(NMI_PRINT_SEQ_WRITER, Ordering::Release);
        added
    }

    /// Shows the text and the number of lost messages to `read`, then wipes both. Not from NMI.
    ///
    /// # Errors
    /// The CPU is still in its handler, or another reader is here: nothing was read.
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

    /// What the hypervisor does from outside, for a model: read the buffer and the count of lost
    /// messages; if `owner` is free, wipe them, and return true.
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
        // Acquire: whatever the last owner did to the buffer comes before what this one does.
        self.owner.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

impl Default for NmiPrintSeq {
    fn default() -> Self {
        Self::new()
    }
}

/// The buffer has an owner already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BufferInUse;
