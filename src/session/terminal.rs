//! The user's terminal while the guest uses it: keys arrive one by one and without an echo; Ctrl-C and
//! Ctrl-\ remain signals. Ctrl-Z goes to the guest.
//!
//! A shell gets its terminal back when this process is stopped by SIGTSTP, and the guest gets its keys
//! again when the process returns to the foreground. Called by `wake`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::getpgrp;
use rustix::stdio::stdin;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr,
};
use signal_hook::consts::SIGTSTP;
use signal_hook::low_level::emulate_default_handler;

/// `_POSIX_VDISABLE`: the value that disables a special key.
const DISABLED: u8 = 0;

/// Interval at which a background process looks if it is in the foreground again. Not every shell sends
/// SIGCONT to a process that runs in the background.
const FOREGROUND_INTERVAL: Duration = Duration::from_secs(1);

/// Pause of the thread that reads keys while they are for another process.
const NOT_OURS: Duration = Duration::from_millis(100);

/// The terminal on standard input, of which this process sets and restores the modes.
#[derive(Debug, Default)]
pub struct UserTerminal(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Modes to restore; `None` while the guest does not use the terminal.
    before: Option<Termios>,
    /// True while this process is to be stopped by SIGTSTP.
    stopping: bool,
}

/// The terminal on standard input in raw mode; restored when dropped.
pub struct RawTerminal(Arc<UserTerminal>);

impl Drop for RawTerminal {
    fn drop(&mut self) {
        self.0.restore_for_good();
    }
}

impl State {
    fn restore(&self) {
        if let Some(before) = &self.before
            && is_in_foreground()
        {
            // An error cannot be handled here.
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

impl UserTerminal {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the terminal on standard input to raw mode. `None` if standard input is no terminal, or this
    /// process is in the background, where changing the terminal would stop it.
    pub fn set_raw(self: &Arc<Self>) -> Option<RawTerminal> {
        if !isatty(stdin()) || !is_in_foreground() {
            return None;
        }
        let before = tcgetattr(stdin()).ok()?;
        tcsetattr(stdin(), OptionalActions::Now, &raw(&before)).ok()?;
        self.lock().before = Some(before);
        Some(RawTerminal(self.clone()))
    }

    /// Restores the modes from before the guest used the terminal. In the background they are another
    /// process's to set.
    fn restore(&self) {
        self.lock().restore();
    }

    /// Restores the modes, and leaves the terminal alone from then on: other threads still watch it, and
    /// would set it to raw mode again.
    pub fn restore_for_good(&self) {
        let mut state = self.lock();
        state.restore();
        state.before = None;
    }

    /// Restores the modes, and stops this process as SIGTSTP does by default. Returns once it continues.
    pub fn stop_process(&self) {
        self.lock().stopping = true;
        self.restore();
        let _ = emulate_default_handler(SIGTSTP);
        self.continued();
    }

    /// Sets the terminal again, after this process has been stopped.
    pub fn continued(&self) {
        self.lock().stopping = false;
        self.set_raw_again();
    }

    /// Sets the terminal to raw mode if the guest uses it, this process is in the foreground, and a shell
    /// has set other modes in between, which become those to restore.
    fn set_raw_again(&self) {
        let mut state = self.lock();
        if state.before.is_none() || state.stopping || !is_in_foreground() {
            return;
        }
        let Ok(now) = tcgetattr(stdin()) else { return };
        if now.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
            && tcsetattr(stdin(), OptionalActions::Now, &raw(&now)).is_ok()
        {
            state.before = Some(now);
        }
    }

    /// Passes keys to `send` as they come, until it returns false or the terminal is gone. A background
    /// process that reads its terminal would be stopped by the kernel, so that it does not read.
    pub fn read_keys(&self, mut send: impl FnMut(&[u8]) -> bool) {
        let interval = Timespec::try_from(FOREGROUND_INTERVAL).ok();
        let mut keys = [0; 64];
        loop {
            let mut waiting = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
            let ready = poll(&mut waiting, interval.as_ref()).unwrap_or(0) > 0;
            self.set_raw_again();
            if !ready {
                continue;
            }
            if !is_in_foreground() || self.lock().stopping {
                std::thread::sleep(NOT_OURS);
                continue;
            }
            match rustix::io::read(stdin(), &mut keys) {
                Ok(count @ 1..) if send(&keys[..count]) => {}
                Err(Errno::INTR | Errno::AGAIN) => {}
                _ => return,
            }
        }
    }
}

fn is_in_foreground() -> bool {
    tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp())
}

/// Returns modes with keys that arrive one by one, without an echo, and with Ctrl-Z among them.
fn raw(modes: &Termios) -> Termios {
    let mut raw = modes.clone();
    raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
    raw.special_codes[SpecialCodeIndex::VSUSP] = DISABLED;
    raw
}
