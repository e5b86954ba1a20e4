//! Events for machines, one line of JSON each, as in the journal (docs/farm-events.schema.json).
//!
//! Characters that a terminal might act on are escaped, which makes no difference to a JSON parser.
//!
//! Owns the escaping; refuses to own the format (`event`). Called by the command line, with each event.

use std::io::Write;

use anyhow::Context;
use nmiscope_report::sanitize;

use super::Reporter;
use crate::event::FarmEvent;

/// Reporter that writes events as JSON.
pub struct JsonLines {
    out: Box<dyn Write>,
}

impl JsonLines {
    /// Writes to `out`, with one write per event.
    pub fn new(out: Box<dyn Write>) -> Self {
        Self { out }
    }
}

impl Reporter for JsonLines {
    fn report(&mut self, event: &FarmEvent) -> anyhow::Result<()> {
        let failed = "failed to write an event";
        let mut line = sanitize::json(&serde_json::to_string(event).context(failed)?);
        line.push('\n');
        self.out.write_all(line.as_bytes()).and_then(|()| self.out.flush()).context(failed)
    }

    /// Does nothing: the earlier farm has written these events.
    fn note_earlier(&mut self, _: &FarmEvent) {}
}
