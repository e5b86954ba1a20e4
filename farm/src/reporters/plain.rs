//! Plain lines, for the log of a CI job and for pipes: one for each try that is over, and a summary.

use std::io::{self, Write};
use std::path::PathBuf;

use super::Reporter;
use super::progress::Progress;
use crate::event::Event;

/// Writes lines.
pub struct Plain {
    /// `None` once nobody reads it any more.
    out: Option<Box<dyn Write>>,
    progress: Progress,
}

impl Plain {
    /// Writes to `out`, which has to remove colors if there are to be none, as `anstream`'s do. `root`
    /// is the results directory.
    pub fn new(out: Box<dyn Write>, root: PathBuf) -> Self {
        Self { out: Some(out), progress: Progress::new(root) }
    }
}

impl Reporter for Plain {
    fn report(&mut self, event: &Event) -> anyhow::Result<()> {
        let text = self.progress.report(event);
        let Some(out) = &mut self.out else { return Ok(()) };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // Somebody who closes the pipe has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.out = None,
            result => result?,
        }
        Ok(())
    }

    fn note_earlier(&mut self, event: &Event) {
        self.progress.note_earlier(event);
    }
}
