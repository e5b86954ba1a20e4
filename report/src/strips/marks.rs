//! Marks of the strips: the beginnings of suspicions, and NMIs. Each has a line of its own above the rows.
//!
//! Owns their words and places.

use super::past::{Past, WIDTH};
use super::words::seconds;
use crate::history::{PastNmis, PastSuspicion};
use crate::sanitize;

/// Maximum number of marks; further ones are only in the text.
const MAX_MARKS: usize = 8;

/// Maximum number of parties that a mark names.
const MAX_PARTIES: usize = 3;

/// Maximum number of characters of a party's name.
const MAX_NAME: usize = 24;

/// Width of a character in a mark's text, in pixels, in the widest of usual fonts.
const WIDEST_ADVANCE: i32 = 8;

/// Mark of an event, with its text above the rows.
pub struct EventMark {
    pub class: &'static str,
    /// The vertical line from the symbol down to the axis, which texts are drawn over.
    pub lead: String,
    /// The vertical line through the rows.
    pub line: String,
    /// The symbol at the line's upper end.
    pub head: String,
    pub text: String,
    pub text_x: i32,
    pub text_y: i32,
    pub anchor: &'static str,
}

/// Event of a history: a suspicion or the NMIs of a backtrace.
struct Event {
    at_ms: f64,
    class: &'static str,
    /// The event in a few words, beside its mark.
    short: String,
    text: String,
}

/// Returns the number of marks.
pub fn count(past: &Past<'_>) -> usize {
    events(past).len().min(MAX_MARKS)
}

/// Returns the marks: the first has the uppermost line of text. Lines of text are `line_height` high, and the
/// marks reach down to `bottom`, through the rows from their `top`.
pub fn marks(past: &Past<'_>, line_height: i32, top: i32, bottom: i32) -> Vec<EventMark> {
    let mark = |(index, event): (usize, Event)| {
        let x = past.x(event.at_ms);
        let y = line_height * index as i32;
        let middle = y + line_height / 2 - 2;
        // The text is on the side with more room.
        let is_right = x > WIDTH / 2;
        let (text_x, anchor) = if is_right { (x - 9, "end") } else { (x + 9, "start") };
        let room = if is_right { text_x } else { WIDTH - text_x };
        let head = match event.class {
            "strip-nmi" => format!("M{x} {}l5 5-5 5-5-5z", middle - 5),
            _ => format!("M{} {}h10l-5 9z", x - 5, middle - 4),
        };
        EventMark {
            class: event.class,
            lead: format!("M{x} {middle}V{top}"),
            line: format!("M{x} {top}V{bottom}"),
            head,
            text: shortened(&event.short, room),
            text_x,
            text_y: y + line_height - 5,
            anchor,
        }
    };
    events(past).into_iter().take(MAX_MARKS).enumerate().map(mark).collect()
}

/// Returns all events of a history as sentences.
pub fn sentences(past: &Past<'_>) -> Vec<String> {
    events(past).into_iter().map(|event| event.text).collect()
}

/// Returns the events: suspicions in order of their beginnings, and then NMIs, the last ones first.
fn events(past: &Past<'_>) -> Vec<Event> {
    let suspicion = |suspicion: &PastSuspicion| Event {
        at_ms: suspicion.began_at_ms,
        class: "strip-began",
        short: format!("{} suspected: {}", suspicion.class, parties(suspicion)),
        text: describe(past, suspicion),
    };
    let nmis = |nmis: &PastNmis| Event {
        at_ms: nmis.at_ms,
        class: "strip-nmi",
        short: format!("NMI to {}", receivers(past, nmis)),
        text: format!("NMI to {}, {}", receivers(past, nmis), before(past, nmis.at_ms)),
    };
    past.suspicions()
        .map(suspicion)
        .chain(past.nmis().filter(|nmis| !nmis.cpus.is_empty()).map(nmis))
        .collect()
}

/// Returns the parties of a suspicion, by their names.
fn parties(suspicion: &PastSuspicion) -> String {
    let name = |party: &String| sanitize::cut(sanitize::line(party), MAX_NAME);
    let mut parties: Vec<String> = suspicion.parties.iter().take(MAX_PARTIES).map(name).collect();
    if let more @ 1.. = suspicion.parties.len().saturating_sub(MAX_PARTIES) {
        parties.push(format!("{more} more"));
    }
    parties.join(", ")
}

fn describe(past: &Past<'_>, suspicion: &PastSuspicion) -> String {
    let (class, parties) = (suspicion.class, parties(suspicion));
    let since = before(past, suspicion.began_at_ms);
    match suspicion.ended_at_ms {
        None => format!("{class} suspected since {since}: {parties}"),
        Some(ended) => {
            let lasted = seconds((ended - suspicion.began_at_ms).max(0.0));
            format!("{class} suspected for {lasted}, from {since}: {parties}")
        }
    }
}

/// Returns as much of a text as has room in a width, in pixels.
fn shortened(text: &str, room: i32) -> String {
    let most = usize::try_from(room / WIDEST_ADVANCE).unwrap_or_default();
    match text.char_indices().nth(most) {
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['\u{2026}']).collect(),
        None => text.into(),
    }
}

fn receivers(past: &Past<'_>, nmis: &PastNmis) -> String {
    match &nmis.cpus[..] {
        cpus if cpus.len() == past.vcpus() && cpus.len() > 1 => "all vCPUs".into(),
        cpus if cpus.len() <= MAX_PARTIES => {
            let names: Vec<String> = cpus.iter().map(|cpu| format!("cpu{cpu}")).collect();
            names.join(", ")
        }
        cpus => format!("{} vCPUs", cpus.len()),
    }
}

/// Returns a moment in words: its time before the end of the history.
fn before(past: &Past<'_>, at_ms: f64) -> String {
    let before = past.ends_at() - at_ms;
    match before < 50.0 {
        true => "at the report".into(),
        false => format!("{} before the report", seconds(before)),
    }
}
