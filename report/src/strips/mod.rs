//! Strips of a backtrace's vCPUs over the minute before it, as SVG and in words: the host's time, ticks,
//! schedules, interrupts, the beginnings of suspicions, and NMIs.
//!
//! Owns the picture, its table and its style; refuses to own the page around them and its colours (`html`).
//! Called by the page of a report. A history may come from anywhere, so that every list has a bound, and says
//! what it leaves out.
//!
//! | module | owns |
//! |---|---|
//! | `past` | a history within bounds, and its time axis |
//! | `words` | a vCPU's history in words |
//! | `paths` | the paths of a vCPU's row |
//! | `marks` | suspicions and NMIs |
//! | `rows` | the rows: one for each vCPU, or for several with equal histories |

mod marks;
mod past;
mod paths;
mod rows;
#[cfg(test)]
mod tests;
mod words;

use askama::Template;

use crate::report::{Backtrace, Report, Source};
use crate::units::plural;
use marks::EventMark;
use past::{LEFT, Past, WIDTH};
use paths::Path;
use rows::{CpuRow, RowLayout};
use words::TableRow;

/// The style sheet of the strips: a part of the page's, whose colours it uses.
pub const STYLE: &str = include_str!("style.css");

/// Space between the picture's parts, in pixels.
const GAP: i32 = 8;

/// Height of a line of text, in pixels.
const LINE: i32 = 16;

/// Returns the reason, as a sentence, why a report's backtraces have no history.
pub fn missing(report: &Report) -> &'static str {
    match report.source {
        Source::Dump => "Nothing is recorded: a dump has no past.",
        // A core of an attach has the account of it.
        _ if report.visit.is_some() => "Nothing is recorded: the VM was observed at one moment.",
        Source::Attached => "Nothing is recorded: the VM was observed at one moment.",
        Source::Live | Source::Core => {
            "Nothing is recorded: hang detection was off or had just begun, or an earlier release wrote \
             the report."
        }
    }
}

/// Returns the picture of a backtrace's history; `None` if it has none. `prefix` begins the ids of its
/// elements, which must be unique in a page.
pub fn svg(backtrace: &Backtrace, prefix: &str) -> Option<String> {
    let past = Past::new(backtrace)?;
    Some(draw(&past, &rows::rows(&past), prefix))
}

/// Returns an HTML `figure` with the picture of a backtrace's history, and the same in words; `None` if it has
/// none. `prefix` is as for [`svg`].
pub fn figure(backtrace: &Backtrace, prefix: &str) -> Option<String> {
    let past = Past::new(backtrace)?;
    let rows = rows::rows(&past);
    let svg = draw(&past, &rows, prefix);
    let totals = rows.shown.iter().map(|row| words::totals(&past, row.first, row.cpus.clone()));
    let figure = Figure {
        title: title(&past),
        svg: &svg,
        caption: caption(&past, &rows),
        rows: totals.collect(),
        events: marks::sentences(&past),
    };
    figure.render().ok()
}

/// Returns a sentence for each vCPU, or for several with equal histories, for a reader who sees no picture;
/// none for a backtrace without history.
pub fn sentences(backtrace: &Backtrace) -> Vec<String> {
    let Some(past) = Past::new(backtrace) else { return Vec::new() };
    let rows = rows::rows(&past);
    let sentence = |row: &CpuRow| format!("{}: {}", row.cpus, words::sentence(&past, row.first));
    rows.shown.iter().map(sentence).collect()
}

#[derive(Template)]
#[template(path = "strips.html")]
struct Figure<'a> {
    title: String,
    svg: &'a str,
    caption: String,
    rows: Vec<TableRow>,
    events: Vec<String>,
}

#[derive(Template)]
#[template(path = "strips.svg")]
struct Strips<'a> {
    prefix: &'a str,
    title: String,
    description: String,
    width: i32,
    height: i32,
    left: i32,
    grid: String,
    axis_y: i32,
    ticks: Vec<AxisLabel>,
    lane_names: Vec<LaneName>,
    rows: Vec<PlacedRow<'a>>,
    marks: Vec<EventMark>,
    legend: Vec<LegendEntry>,
}

struct AxisLabel {
    x: i32,
    text: String,
}

struct LaneName {
    y: i32,
    text: &'static str,
}

struct PlacedRow<'a> {
    y: i32,
    label: &'a str,
    status: &'a str,
    suspected: bool,
    paths: &'a [Path],
}

struct LegendEntry {
    x: i32,
    y: i32,
    class: &'static str,
    swatch: &'static str,
    text: &'static str,
}

fn title(past: &Past<'_>) -> String {
    format!("Last {} of {}", words::seconds(past.length_ms()), plural(past.vcpus() as u64, "vCPU"))
}

fn draw(past: &Past<'_>, rows: &rows::CpuRows, prefix: &str) -> String {
    let RowLayout { height: row_height, names, .. } = rows.layout;
    let marks_height = LINE * marks::count(past) as i32;
    let axis_y = marks_height + LINE - 4;
    let top = marks_height + LINE + GAP;
    let bottom = top + row_height * rows.shown.len() as i32;
    let marks = marks::marks(past, LINE, top, bottom);
    let legend = legend(bottom + GAP);
    let placed = rows.shown.iter().enumerate().map(|(index, row)| PlacedRow {
        y: top + row_height * index as i32,
        label: &row.label,
        status: &row.status,
        suspected: row.suspected,
        paths: &row.paths,
    });
    let ticks: Vec<AxisLabel> = past
        .axis_seconds()
        .map(|seconds| AxisLabel {
            x: past.x(past.ends_at() - f64::from(seconds) * 1000.0),
            text: if seconds == 0 { "report".into() } else { format!("\u{2212}{seconds} s") },
        })
        .collect();
    let grid = ticks.iter().map(|tick| format!("M{} {}V{bottom}", tick.x, axis_y + 4)).collect();
    let strips = Strips {
        prefix,
        title: title(past),
        description: description(past, rows),
        width: WIDTH,
        height: legend.last().map_or(bottom, |entry| entry.y) + LINE,
        left: LEFT,
        grid,
        axis_y,
        ticks,
        lane_names: if names { rows.layout.lane_names() } else { Vec::new() },
        rows: placed.collect(),
        marks,
        legend,
    };
    // Writing to a string does not fail.
    strips.render().unwrap_or_default()
}

/// Returns the summary of the picture for those who do not see it.
fn description(past: &Past<'_>, rows: &rows::CpuRows) -> String {
    const MOST: usize = 8;
    let sentence = |row: &CpuRow| format!("{}: {}.", row.cpus, words::sentence(past, row.first));
    let mut parts: Vec<String> = rows.shown.iter().take(MOST).map(sentence).collect();
    if let more @ 1.. = rows.shown.len().saturating_sub(MOST) {
        parts.push(format!("{} are in the table below.", plural(more as u64, "more row")));
    }
    parts.join(" ")
}

fn caption(past: &Past<'_>, rows: &rows::CpuRows) -> String {
    let slot = words::seconds(f64::from(past.slot_ms()));
    let mut caption = format!(
        "Time runs to the right, up to the backtrace, in slots of {slot}. Where a band is hatched, the \
         host did not run the vCPU: that time does not count towards a hang."
    );
    if rows.folded > 0 {
        caption.push_str(&format!(
            " {} with an equal history share a row.",
            plural(rows.folded as u64, "vCPU")
        ));
    }
    if rows.left_out > 0 {
        caption.push_str(&format!(
            " {} not drawn.",
            match rows.left_out {
                1 => "1 more vCPU is".into(),
                more => format!("{more} more vCPUs are"),
            }
        ));
    }
    caption
}

fn legend(top: i32) -> Vec<LegendEntry> {
    const COLUMNS: i32 = 2;
    const BAR: &str = "M0 1h20v9H0z";
    const SMALL: &str = "M0 10v-4h7v4zM13 10v-8h7v8z";
    let entries = [
        ("strip-ran", BAR, "own time: the vCPU ran"),
        ("strip-ticks", SMALL, "1st line: timer ticks; a higher bar is more"),
        ("strip-own", BAR, "own time: the vCPU was idle"),
        ("strip-schedules", SMALL, "2nd line: schedules of the kernel"),
        ("strip-starved", BAR, "wall time without own time: the host did not run it"),
        ("strip-interrupts", SMALL, "3rd line: interrupts taken"),
        ("strip-stopped", "M0 6h20", "the guest was stopped for a backtrace"),
        ("strip-base", "M0 6h20", "a line without bars: none; no line: not known"),
        ("strip-since", "M0 4h20v3H0z", "suspected from the dashed line on"),
        ("strip-nmi-head", "M10 1l5 5-5 5-5-5z", "an NMI was sent"),
    ];
    let place =
        |(index, (class, swatch, text)): (usize, (&'static str, &'static str, &'static str))| {
            let index = index as i32;
            LegendEntry {
                x: index % COLUMNS * (WIDTH / COLUMNS),
                y: top + index / COLUMNS * LINE,
                class,
                swatch,
                text,
            }
        };
    entries.into_iter().enumerate().map(place).collect()
}
