//! Plain lines, for the log of a CI job and for pipes: one for each try that is over, and a summary.

use std::io::{self, Write};
use std::path::PathBuf;

use super::Reporter;
use super::story::Story;
use crate::event::Event;

/// Writes lines.
pub struct Lines {
    /// `None` once nobody reads it any more.
    out: Option<Box<dyn Write>>,
    story: Story,
}

impl Lines {
    /// Writes to `out`, which has to remove colors if there are to be none, as `anstream`'s do. `root`
    /// is the results directory.
    pub fn new(out: Box<dyn Write>, root: PathBuf) -> Self {
        Self { out: Some(out), story: Story::new(root) }
    }
}

impl Reporter for Lines {
    fn tell(&mut self, event: &Event) -> anyhow::Result<()> {
        let text = self.story.tell(event);
        let Some(out) = &mut self.out else { return Ok(()) };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // Somebody who closes the pipe has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.out = None,
            result => result?,
        }
        Ok(())
    }

    fn recall(&mut self, event: &Event) {
        self.story.recall(event);
    }
}
