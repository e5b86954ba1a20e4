//! The user's terminal, lent to the guest: keys come at once and without an echo, but Ctrl-C and
//! Ctrl-\ stay what they are. Ctrl-Z goes to the guest: a VM in the background with a terminal that it
//! still reads would only be stopped. Given back when dropped.

use rustix::process::getpgrp;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr,
};

/// `_POSIX_VDISABLE`: no key has this function.
const DISABLED: u8 = 0;

/// A terminal in that mode.
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Standard input, if it is a terminal and ours: a job in the background that touched its
    /// terminal would be stopped.
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
        // There is nobody to tell, and nothing else to try.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}
