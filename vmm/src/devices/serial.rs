//! COM1: vm-superio's 16550A, with an input queue behind its FIFO.
//!
//! Owns the queue and the count of failed output; refuses to own the port numbers (`layout`) and the
//! lock around the port (`devices`). Called by `devices`, under that lock.
//!
//! The UART's own FIFO holds 64 bytes. Input beyond that waits in a queue of at most [`PENDING_MAX`]
//! bytes and moves up as the guest reads; if the guest never reads, the sender gets an error once the
//! queue is full.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;
use vm_superio::serial::{Error, SerialEvents};
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// Most bytes of input that wait for room in the FIFO.
const PENDING_MAX: usize = 64 << 10;

/// Error of sending input to a guest that reads its serial port too slowly, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "send {rejected} bytes of input to the guest's serial port: {PENDING_MAX} bytes wait already"
)]
pub struct SerialInputFull {
    /// Number of bytes at the end of the input that were not queued.
    pub rejected: usize,
}

/// COM1's interrupt line, as an eventfd that KVM listens to.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Counts the bytes that the guest writes, including those that the writer refuses. Relaxed: the count
/// orders no other memory.
struct Written(Arc<AtomicU64>);

impl SerialEvents for Written {
    fn buffer_read(&self) {}

    fn out_byte(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn tx_lost_byte(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn in_buffer_empty(&self) {}
}

pub(crate) struct SerialPort {
    uart: Serial<Line, Written, Box<dyn Write + Send>>,
    pending: VecDeque<u8>,
    lost_output: u64,
}

impl SerialPort {
    /// Makes a serial port that counts the bytes that the guest writes in `written`.
    pub(super) fn new(
        interrupt: EventFd,
        output: Box<dyn Write + Send>,
        written: Arc<AtomicU64>,
    ) -> Self {
        let uart = Serial::with_events(Line(interrupt), Written(written), output);
        Self { uart, pending: VecDeque::new(), lost_output: 0 }
    }

    /// Reads the register at `offset`, 0 to 7.
    pub(super) fn read(&mut self, offset: u8) -> u8 {
        let value = self.uart.read(offset);
        self.refill();
        value
    }

    /// Writes the register at `offset`, 0 to 7. Output that the writer refuses is counted and dropped: a
    /// guest does not stop because its console has gone.
    pub(super) fn write(&mut self, offset: u8, value: u8) {
        if let Err(error) = self.uart.write(offset, value) {
            self.lose(&error);
        }
        self.refill();
    }

    /// Queues input for the guest, as much as there is room for.
    ///
    /// # Errors
    /// [`SerialInputFull`] with the number of bytes that were left out.
    pub(crate) fn input(&mut self, bytes: &[u8]) -> Result<(), SerialInputFull> {
        let room = PENDING_MAX - self.pending.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.pending.extend(taken);
        self.refill();
        match bytes.len() - taken.len() {
            0 => Ok(()),
            rejected => Err(SerialInputFull { rejected }),
        }
    }

    /// Moves queued input into the FIFO. In loopback mode the FIFO takes none, and the input stays queued.
    fn refill(&mut self) {
        while !self.pending.is_empty() && self.uart.fifo_capacity() > 0 {
            match self.uart.enqueue_raw_bytes(self.pending.as_slices().0) {
                Ok(0) => return,
                Ok(moved) => drop(self.pending.drain(..moved)),
                Err(error) => return self.lose(&error),
            }
        }
    }

    /// Counts lost output. Only the first loss is logged; the rest would be a flood.
    fn lose(&mut self, error: &Error<io::Error>) {
        self.lost_output += 1;
        if self.lost_output == 1 {
            warn!(%error, "serial port: output or an interrupt was lost; not reported again");
        }
    }
}

impl fmt::Debug for SerialPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialPort")
            .field("state", &self.uart.state())
            .field("pending", &self.pending.len())
            .field("lost_output", &self.lost_output)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u8 = 0;
    const LINE_STATUS: u8 = 5;
    const DATA_READY: u8 = 1;

    fn port() -> SerialPort {
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        SerialPort::new(interrupt, Box::new(io::sink()), Arc::default())
    }

    #[test]
    fn input_longer_than_the_fifo_arrives_whole_and_in_order() {
        let mut port = port();
        let sent: Vec<u8> = (0..=255).cycle().take(1000).collect();
        port.input(&sent).unwrap();
        let mut received = Vec::new();
        while port.read(LINE_STATUS) & DATA_READY != 0 {
            received.push(port.read(DATA));
        }
        assert_eq!(received, sent);
    }

    #[test]
    fn input_for_a_guest_that_never_reads_is_rejected() {
        let mut port = port();
        let rejected = port.input(&vec![0; PENDING_MAX + 3]).unwrap_err().rejected;
        assert_eq!(rejected, 3);
        // 64 bytes have moved into the FIFO since.
        assert_eq!(port.input(&[0; 100]).unwrap_err().rejected, 36);
    }

    #[test]
    fn a_broken_console_does_not_stop_the_guest() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let written = Arc::<AtomicU64>::default();
        let mut port = SerialPort::new(interrupt, Box::new(Broken), written.clone());
        port.write(DATA, b'a');
        port.write(DATA, b'b');
        assert_eq!(written.load(Ordering::Relaxed), 2, "it was written all the same");
        assert_eq!(port.lost_output, 2);
    }
}
