//! Each event as a line of JSON, for machines: what the journal has, as it is written.
//! docs/farm-events.schema.json is its schema. Where a terminal might act on a character, its escape
//! stands instead, which is the same to who reads JSON.

use std::io::Write;

use anyhow::Context;
use nmiscope_report::sanitize;

use super::Reporter;
use crate::event::Event;

/// Writes JSON.
pub struct JsonLines {
    out: Box<dyn Write>,
}

impl JsonLines {
    /// Writes to `out`, by one write for each event.
    pub fn new(out: Box<dyn Write>) -> Self {
        Self { out }
    }
}

impl Reporter for JsonLines {
    fn report(&mut self, event: &Event) -> anyhow::Result<()> {
        let failed = "failed to write an event";
        let mut line = sanitize::json(&serde_json::to_string(event).context(failed)?);
        line.push('\n');
        self.out.write_all(line.as_bytes()).and_then(|()| self.out.flush()).context(failed)
    }

    /// Who reads them has had it.
    fn note_earlier(&mut self, _: &Event) {}
}
