//! The channel that a session waits on: the VM's events, signals, and keys.
//!
//! Owns the signal handlers and the threads that feed the channel. Called by `live`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nmiscope_vmm as vmm;
use signal_hook::consts::{SIGCONT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1};
use signal_hook::iterator::{Handle, Signals};

use super::STACK;
use super::terminal::{RawTerminal, UserTerminal};
use crate::signals::{self, Repeats, Unwritten};

/// A message that wakes the session.
#[derive(Debug)]
pub enum Wake {
    /// Event of the VM that the session acts on.
    Vm(vmm::VmEvent),
    /// Signal that this process received.
    Signal(Signal),
    /// Keys that were typed for the guest.
    Input(Vec<u8>),
    /// Bytes of standard input that is no terminal.
    Piped(Vec<u8>),
}

/// A signal to this process that the session handles, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(i32);

impl Signal {
    /// Returns true for SIGTERM, which takes a last backtrace before it ends the run: its sender could
    /// not wait for the guest to end.
    pub fn asks_for_last_backtrace(self) -> bool {
        self.0 == SIGTERM
    }

    /// Returns true for a signal that prints the backtraces and lets the guest run on, as SIGQUIT does to
    /// a JVM. All others end the run.
    pub fn asks_for_backtrace(self) -> bool {
        matches!(self.0, SIGQUIT | SIGUSR1)
    }

    /// Returns the signal's name, as in `SIGINT`.
    pub fn name(self) -> &'static str {
        signals::name(self.0)
    }
}

/// The channel of messages that wake the session.
pub struct Inbox {
    sender: Sender<Wake>,
    receiver: Receiver<Wake>,
}

/// Guard of the thread that listens for signals; stops it when dropped.
#[derive(Debug)]
pub struct SignalWatch(Handle);

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Inbox {
    /// Creates a channel without messages.
    pub fn new() -> Self {
        let (sender, receiver) = mpsc::channel();
        Self { sender, receiver }
    }

    /// Returns a sender of messages to this channel.
    pub fn sender(&self) -> Sender<Wake> {
        self.sender.clone()
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// No message came within `for_at_most`.
    pub fn wait(&self, for_at_most: Duration) -> Result<Wake, RecvTimeoutError> {
        self.receiver.recv_timeout(for_at_most)
    }

    /// Returns the callback for the VM's events. A guest can cause any number of them, so it passes on only
    /// those that a session acts on: the first POST code that `is_ready`, and the VM's end.
    pub fn vmm_events(&self, is_ready: fn(u8) -> bool) -> Box<dyn Fn(vmm::VmEvent) + Send + Sync> {
        let sender = self.sender.clone();
        let was_ready = AtomicBool::new(false);
        Box::new(move |event| {
            let wanted = match &event {
                vmm::VmEvent::Post { code, .. } if is_ready(*code) => {
                    !was_ready.swap(true, Relaxed)
                }
                vmm::VmEvent::Ended(_) => true,
                _ => false,
            };
            if wanted {
                // Sending fails once the session has ended, which needs no event.
                let _ = sender.send(Wake::Vm(event));
            }
        })
    }

    /// Handles signals from now on, and sends them to this channel. Equal ones in quick succession are one
    /// ([`Repeats`]).
    ///
    /// A second terminating signal ends the process at once, and names the outputs of `unwritten`, which
    /// are lost. With `None` it does not: a farm may send several signals, and kills a VM that does not
    /// end. SIGTSTP and SIGCONT restore and set the modes of `terminal`.
    ///
    /// # Errors
    /// A handler cannot be installed, or the thread cannot be started.
    pub fn watch_signals(
        &self,
        unwritten: Option<Unwritten>,
        terminal: Arc<UserTerminal>,
    ) -> anyhow::Result<SignalWatch> {
        let watched = signals::terminating().chain([SIGQUIT, SIGUSR1, SIGTSTP, SIGCONT]);
        let mut signals = Signals::new(watched).context("failed to install signal handlers")?;
        let handle = signals.handle();
        let mut watcher = SignalWatcher {
            sender: self.sender.clone(),
            unwritten,
            terminal,
            repeats: Repeats::default(),
            was_asked_to_end: false,
        };
        thread::Builder::new()
            .name("signals".into())
            .stack_size(STACK)
            .spawn(move || {
                while !signals.is_closed() {
                    let mut batch: Vec<i32> = signals.wait().collect();
                    // A SIGCONT that comes before the process has stopped would be lost.
                    batch.extend(signals.pending());
                    without_ended_stop(batch).for_each(|signal| watcher.handle(signal));
                }
            })
            .context("failed to start a thread for signals")?;
        Ok(SignalWatch(handle))
    }

    /// Sends keys to this channel, one by one and without an echo, until the returned guard is dropped.
    /// `None` if standard input is not a terminal that this process may use. The thread that reads keys
    /// stays in its wait until the process ends.
    pub fn watch_terminal(&self, terminal: &Arc<UserTerminal>) -> Option<RawTerminal> {
        let raw = terminal.set_raw()?;
        let (sender, terminal) = (self.sender.clone(), terminal.clone());
        let read = move || {
            terminal.read_keys(|keys| sender.send(Wake::Input(keys.to_vec())).is_ok());
        };
        thread::Builder::new().name("keys".into()).stack_size(STACK).spawn(read).ok()?;
        Some(raw)
    }
}

/// Leaves SIGTSTP out of signals that arrived together with SIGCONT: their order is unknown, and a process
/// that stops after its SIGCONT would stay stopped.
fn without_ended_stop(batch: Vec<i32>) -> impl Iterator<Item = i32> {
    let continues = batch.contains(&SIGCONT);
    batch.into_iter().filter(move |&signal| !(continues && signal == SIGTSTP))
}

/// The thread that receives signals. It ends the process itself, since the session's thread may be stuck.
struct SignalWatcher {
    sender: Sender<Wake>,
    unwritten: Option<Unwritten>,
    terminal: Arc<UserTerminal>,
    repeats: Repeats,
    was_asked_to_end: bool,
}

impl SignalWatcher {
    fn handle(&mut self, signal: i32) {
        match signal {
            SIGTSTP => return self.terminal.stop_process(),
            SIGCONT => return self.terminal.continued(),
            SIGQUIT | SIGUSR1 => {}
            _ if self.repeats.is_repeat(signal, Instant::now()) => return,
            _ => self.end(signal),
        }
        // Sending fails once the session has ended, which needs no signal.
        let _ = self.sender.send(Wake::Signal(Signal(signal)));
    }

    fn end(&mut self, signal: i32) {
        if let Some(unwritten) = self.unwritten.as_ref().filter(|_| self.was_asked_to_end) {
            self.terminal.restore_for_good();
            unwritten.end_at_once(signal);
        }
        self.was_asked_to_end = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_that_arrives_with_its_end_is_left_out() {
        let left = |batch: &[i32]| without_ended_stop(batch.to_vec()).collect::<Vec<_>>();
        assert_eq!(left(&[SIGTSTP]), [SIGTSTP]);
        assert_eq!(left(&[SIGTERM, SIGCONT, SIGTSTP]), [SIGTERM, SIGCONT]);
        assert_eq!(left(&[SIGTSTP, SIGCONT]), [SIGCONT]);
    }
}
