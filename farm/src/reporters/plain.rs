//! Plain lines for pipes and the logs of CI jobs: one for each try that has ended, and a summary.
//!
//! Owns the writing; refuses to own the text (`progress`). Called by the command line, with each event.

use std::io::{self, Write};
use std::path::PathBuf;

use super::progress::Progress;
use super::{Reporter, TextOptions};
use crate::event::FarmEvent;

/// Reporter that writes plain lines.
pub struct Plain {
    /// Output; `None` once its reader has closed the pipe.
    out: Option<Box<dyn Write>>,
    progress: Progress,
}

impl Plain {
    /// Writes to `out`, which must strip colors itself if there are to be none, as `anstream`'s streams
    /// do. `root` is the results directory.
    pub fn new(out: Box<dyn Write>, root: PathBuf, options: TextOptions) -> Self {
        Self { out: Some(out), progress: Progress::new(root, options) }
    }
}

impl Reporter for Plain {
    fn report(&mut self, event: &FarmEvent) -> anyhow::Result<()> {
        let mut text = self.progress.report(event);
        text.extend(self.progress.hunt_line(event));
        let Some(out) = &mut self.out else { return Ok(()) };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // A reader that closes the pipe has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.out = None,
            result => result?,
        }
        Ok(())
    }

    fn note_earlier(&mut self, event: &FarmEvent) {
        self.progress.note_earlier(event);
    }
}
