//! The user's terminal while the guest uses it: keys arrive one by one and without an echo; Ctrl-C and
//! Ctrl-\ remain signals. Ctrl-Z goes to the guest: a background process that still reads its terminal
//! would be stopped by the kernel.

use rustix::process::getpgrp;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr,
};

/// `_POSIX_VDISABLE`: the value that disables a special key.
const DISABLED: u8 = 0;

/// The terminal on standard input in raw mode; restored when dropped.
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Sets the terminal on standard input to raw mode. `None` if standard input is no terminal, or this
    /// process is in the background, where changing the terminal would stop it.
    pub fn on_stdin() -> Option<Self> {
        let stdin = std::io::stdin();
        if !isatty(&stdin) || tcgetpgrp(&stdin).ok()? != getpgrp() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        raw.special_codes[SpecialCodeIndex::VSUSP] = DISABLED;
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // An error cannot be handled here.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}
