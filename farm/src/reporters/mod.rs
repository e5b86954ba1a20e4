//! Those who tell of a farm's run: people on a terminal or in the log of a CI job, and machines. Each
//! is fed with events, in their order, and knows nothing else: the journal of a run that is over does
//! as well as one that goes on.
//!
//! Names come from a suite, and names of locks and functions from a guest's memory. What is shown of
//! them goes through `report::sanitize` first, and is cut where it is too long.
//!
//! None keeps more than what failed, but for `junit`, whose format has a line for every VM.

mod json_lines;
mod junit;
mod markdown;
mod phrases;
mod plain;
mod progress;
mod runs;
mod summary;
mod terminal;
#[cfg(test)]
mod tests;

use super::event::Event;

pub use json_lines::JsonLines;
pub use junit::Junit;
pub use markdown::Markdown;
pub use plain::Plain;
pub use terminal::Terminal;

/// One who tells of a run.
pub trait Reporter {
    /// Tells of an event.
    ///
    /// # Errors
    /// It could not be written. That is no reason to end a run: the journal has it.
    fn report(&mut self, event: &Event) -> anyhow::Result<()>;

    /// Takes note of an event of an earlier farm, that this one resumes, so that what is said at the
    /// end is of all of it. Says nothing now.
    fn note_earlier(&mut self, event: &Event);
}
