//! Symbols for text: copies a log, and adds functions and source lines behind each line of a stack trace.
//!
//! | module | owns |
//! |---|---|
//! | `grammar` | the words of a line that name code |
//! | `lookup` | the symbol and the image of a reference, and its frame |
//! | `annotator` | the log as a whole: lines, boots, the address offset of each, the output |
//! | `record` | a resolution as JSON |
//! | `summary` | the number of addresses that were found, and the reasons why the others were not |
//!
//! Refuses to read: `cli` reads the log and opens images, `images` finds modules. Called by `cli`.

mod annotator;
pub mod grammar;
mod lookup;
mod record;
mod summary;

pub use annotator::{Annotator, Format};
pub use lookup::{Lookup, Match, OtherSize, Resolution, Unresolved};
pub use record::write_record;
pub use summary::LogSummary;

use nmiscope_report::sanitize::line;
use nmiscope_report::{Frame, Function};
use nmiscope_symbolizer::short_name;

/// Largest number of matches that a line shows; JSON has more.
const MAX_SHOWN: usize = 4;

/// Returns a resolution as one line: one match, or several that are marked as ambiguous. Empty without a
/// match.
pub fn one_line(answer: &Resolution) -> String {
    let mut places: Vec<String> =
        answer.matches.iter().map(|found| frame_in_one_line(&found.frame)).collect();
    places.dedup();
    let hidden = places.len().saturating_sub(MAX_SHOWN) + answer.omitted;
    places.truncate(MAX_SHOWN);
    match (places.as_slice(), hidden) {
        ([], _) => String::new(),
        ([only], 0) => match (answer.doubt, answer.incomplete()) {
            (Some(doubt), _) => format!("{only}  (doubtful: {doubt})"),
            (None, Some(reason)) => line(&format!("{only}  (incomplete: {reason})")),
            (None, None) => only.clone(),
        },
        (_, 0) => format!("ambiguous: {}", places.join(" | ")),
        (_, hidden) => format!("ambiguous: {} | {hidden} more", places.join(" | ")),
    }
}

/// Returns a frame as one line: `spin_until_free at spinlock.rs:58 < lock at spinlock.rs:41`.
fn frame_in_one_line(frame: &Frame) -> String {
    if frame.functions.is_empty() {
        return line(frame.missing.as_deref().unwrap_or("unknown"));
    }
    let functions: Vec<String> = frame.functions.iter().map(function_in_one_line).collect();
    functions.join(" < ")
}

fn function_in_one_line(function: &Function) -> String {
    let name = function.name.as_deref().map_or("??", short_name);
    let place = match (&function.file, function.line) {
        (Some(file), Some(line)) => format!(" at {file}:{line}"),
        (Some(file), None) => format!(" in {file}"),
        (None, _) => String::new(),
    };
    line(&format!("{name}{place}"))
}
