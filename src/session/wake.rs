//! Everything that a session waits for, in one channel: the VM, signals, keys.

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

/// A reason to wake up.
#[derive(Debug)]
pub enum Wake {
    /// The VM has something to say.
    Vm(vmm::Event),
    /// The user has.
    Signal(Signal),
    /// Keys for the guest.
    Input(Vec<u8>),
}

/// A signal that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(i32);

impl Signal {
    /// End the run, but say where the guest was: whoever sends this had no time to wait for its end.
    pub fn asks_for_last_backtrace(self) -> bool {
        self.0 == SIGTERM
    }

    /// Print the backtraces and go on, as SIGQUIT does to a JVM; the others end the run.
    pub fn asks_for_backtrace(self) -> bool {
        matches!(self.0, SIGQUIT | SIGUSR1)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        signal_hook::low_level::signal_name(self.0).unwrap_or("a signal")
    }
}

/// The channel.
pub struct Inbox {
    sender: Sender<Wake>,
    receiver: Receiver<Wake>,
}

/// Stops listening for signals when dropped.
pub struct SignalWatch(Handle);

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Inbox {
    /// An empty one.
    pub fn new() -> Self {
        let (sender, receiver) = mpsc::channel();
        Self { sender, receiver }
    }

    /// The next reason, or none within that time.
    pub fn wait(&self, for_at_most: Duration) -> Result<Wake, RecvTimeoutError> {
        self.receiver.recv_timeout(for_at_most)
    }

    /// Where the VM puts its events. A guest can make as many as it likes, so that only those get
    /// through that a session acts on: the first POST code that `is_ready`, and the VM's end.
    pub fn vmm_events(&self, is_ready: fn(u8) -> bool) -> Box<dyn Fn(vmm::Event) + Send + Sync> {
        let sender = self.sender.clone();
        let was_ready = AtomicBool::new(false);
        Box::new(move |event| {
            let wanted = match &event {
                vmm::Event::Post { code, .. } if is_ready(*code) => !was_ready.swap(true, Relaxed),
                vmm::Event::Ended(_) => true,
                _ => false,
            };
            if wanted {
                // A session that has ended wants no more of them.
                let _ = sender.send(Wake::Vm(event));
            }
        })
    }

    /// Puts signals here from now on, instead of what they would do.
    ///
    /// `twice_at_once`: the second one that asks to end does so at once. Not where somebody else sees to
    /// that, and may well send more than one to be sure.
    pub fn watch_signals(&self, twice_at_once: bool) -> anyhow::Result<SignalWatch> {
        let failed = "failed to install signal handlers";
        // The second time they mean it, whatever this program is stuck in.
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

    /// Puts keys here, one by one and unechoed, if standard input is a terminal; until the result is
    /// dropped. The thread that reads them stays in its read, and ends with the process.
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
