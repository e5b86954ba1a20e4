//! Reporters: render a farm's events for people on a terminal, for the log of a CI job, and for machines.
//!
//! A reporter sees events in order and nothing else, so it can also render the journal of a run that has
//! ended. Names come from a suite, and names of locks and functions from a guest's memory: all of them
//! pass through `report::sanitize` and are cut where they are too long. Only failures are kept in memory,
//! except by `junit` and `index`, whose formats have an entry for every VM.
//!
//! Owns the trait and all texts about a run; refuses to own events (`event`) and the choice of reporters
//! (the command line, which calls them).

mod files;
mod hunt;
mod index;
mod json_lines;
mod junit;
mod markdown;
mod phrases;
mod plain;
mod progress;
mod runs;
mod status_level;
mod summary;
mod terminal;
#[cfg(test)]
mod tests;

use super::event::FarmEvent;

pub use index::IndexPage;
pub use json_lines::JsonLines;
pub use junit::Junit;
pub use markdown::Markdown;
pub use plain::Plain;
pub use status_level::StatusLevel;
pub use terminal::Terminal;

/// Amount and kind of the text about a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TextOptions {
    /// Tries that get a line of their own.
    pub status_level: StatusLevel,
    /// True for a hunt, which shows the rate of hangs so far.
    pub hunt: bool,
}

/// Renderer of a run's events.
pub trait Reporter {
    /// Renders an event.
    ///
    /// # Errors
    /// Fails if the output cannot be written. The run continues, since the journal has the event.
    fn report(&mut self, event: &FarmEvent) -> anyhow::Result<()>;

    /// Records an event of the earlier run that this farm resumes, so that the final summary covers both.
    /// Writes nothing.
    fn note_earlier(&mut self, event: &FarmEvent);
}
