//! The channel that a session waits on: the VM's events, signals, and keys.
//!
//! Owns the signal handlers and the threads that feed the channel. Called by `live`.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use nmiscope_vmm as vmm;
use signal_hook::consts::{SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};

use super::STACK;
use super::terminal::RawTerminal;
use crate::signals;

/// A message that wakes the session.
#[derive(Debug)]
pub enum Wake {
    /// Event of the VM that the session acts on.
    Vm(vmm::VmEvent),
    /// Signal that this process received.
    Signal(Signal),
    /// Keys that were typed for the guest.
    Input(Vec<u8>),
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
        signal_hook::low_level::signal_name(self.0).unwrap_or("a signal")
    }
}

/// The channel of messages that wake the session.
pub struct Inbox {
    sender: Sender<Wake>,
    receiver: Receiver<Wake>,
}

/// Guard of the thread that listens for signals; stops it when dropped.
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

    /// Handles signals from now on, and sends them to this channel.
    ///
    /// With `twice_at_once` the second terminating signal ends the process at once. A farm does without:
    /// it may send several, and kills a VM that does not end.
    ///
    /// # Errors
    /// A handler cannot be installed, or the thread cannot be started.
    pub fn watch_signals(&self, twice_at_once: bool) -> anyhow::Result<SignalWatch> {
        let failed = "failed to install signal handlers";
        // The second signal ends the process in the handler, wherever this program is stuck.
        let meant = Arc::new(AtomicBool::new(false));
        for signal in signals::terminating().filter(|_| twice_at_once) {
            flag::register_conditional_default(signal, meant.clone()).context(failed)?;
            flag::register(signal, meant.clone()).context(failed)?;
        }
        let watched = signals::terminating().chain([SIGQUIT, SIGUSR1]);
        let mut signals = Signals::new(watched).context(failed)?;
        let handle = signals.handle();
        let sender = self.sender.clone();
        thread::Builder::new()
            .name("signals".into())
            .stack_size(STACK)
            .spawn(move || {
                for signal in signals.forever() {
                    if sender.send(Wake::Signal(Signal(signal))).is_err() {
                        break;
                    }
                }
            })
            .context("failed to start a thread for signals")?;
        Ok(SignalWatch(handle))
    }

    /// Sends keys to this channel, one by one and without an echo, until the returned guard is dropped.
    /// `None` if standard input is not a terminal that this process may use. The thread that reads keys
    /// stays in its read until the process ends.
    pub fn watch_terminal(&self) -> Option<RawTerminal> {
        let terminal = RawTerminal::on_stdin()?;
        let sender = self.sender.clone();
        let read = move || {
            let mut bytes = [0; 64];
            while let Ok(count @ 1..) = std::io::stdin().read(&mut bytes) {
                if sender.send(Wake::Input(bytes[..count].to_vec())).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new().name("keys".into()).stack_size(STACK).spawn(read).ok()?;
        Some(terminal)
    }
}
