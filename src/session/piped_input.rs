//! Standard input that is no terminal: its bytes go to the guest's console, up to its end, which ends
//! nothing else.
//!
//! Owns the bytes on their way: the reader waits until the guest's serial port has taken what was read
//! before, so that a guest that does not read keeps a pipe full, as a program would. Called by `live`.

use std::io::IsTerminal;
use std::sync::mpsc::{self, Sender, SyncSender};
use std::thread;

use anyhow::Context;
use nmiscope_vmm::Vm;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::stdin;

use super::STACK;
use super::wake::Wake;

/// Maximum number of bytes read at a time.
const MOST_BYTES: usize = 4096;

/// Reads bytes of standard input, and waits for them where another process has made it non-blocking. Returns
/// their number; `None` at the end. An error, as of a closed descriptor, is an end too.
fn read_some(bytes: &mut [u8]) -> Option<usize> {
    loop {
        match rustix::io::read(stdin(), &mut *bytes) {
            Ok(count) => return Some(count).filter(|&count| count > 0),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut waiting = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
                // An error shows at the next read.
                let _ = poll(&mut waiting, None);
            }
            Err(_) => return None,
        }
    }
}

/// Bytes of standard input that the guest's serial port has not taken.
#[derive(Debug, Default)]
pub struct PipedInput {
    bytes: Vec<u8>,
    /// Sender that lets the reader continue; `None` without a reader.
    taken: Option<SyncSender<()>>,
}

impl PipedInput {
    /// Starts to read standard input, and sends its bytes as [`Wake::Piped`]. A terminal is not read: its
    /// keys come by another way. The reader stays in its read until the process ends.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(to: Sender<Wake>) -> anyhow::Result<Self> {
        if std::io::stdin().is_terminal() {
            return Ok(Self::default());
        }
        let (taken, continued) = mpsc::sync_channel(1);
        let read = move || {
            let mut bytes = [0; MOST_BYTES];
            while let Some(count) = read_some(&mut bytes) {
                let sent = to.send(Wake::Piped(bytes[..count].to_vec()));
                if sent.is_err() || continued.recv().is_err() {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("input".into())
            .stack_size(STACK)
            .spawn(read)
            .context("failed to start a thread for standard input")?;
        Ok(Self { bytes: Vec::new(), taken: Some(taken) })
    }

    /// Adds bytes that were read.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Passes bytes to the guest's serial port, as many as it takes now.
    pub fn deliver(&mut self, vm: &Vm) {
        if self.bytes.is_empty() {
            return;
        }
        let left = vm.serial_input(&self.bytes).err().map_or(0, |full| full.rejected);
        self.bytes.drain(..self.bytes.len() - left);
        if let Some(taken) = self.taken.as_ref().filter(|_| self.bytes.is_empty()) {
            // It has room: the reader sends once for each time that it is let on.
            let _ = taken.try_send(());
        }
    }
}
