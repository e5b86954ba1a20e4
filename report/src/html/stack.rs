//! Stacks on a page: a line for each function, with its variables and the source lines around it.
//!
//! Owns the markup of a stack; which functions are shown is decided by `text`. Called by `party`.

use askama::Template;

use super::room::Room;
use super::sources::{Excerpt, Sources};
use super::words::{Words, line};
use crate::Function;
use crate::sanitize::cut;
use crate::text::parties::ShownStack;
use crate::text::stack::Row;
use crate::text::variables;

/// The most characters of a variable's name and value.
const MAX_VARIABLE: usize = 160;
/// The most variables of a function.
const MAX_VARIABLES: usize = 24;

/// A stack as a part of a page.
#[derive(Template)]
#[template(path = "report/stack.html")]
pub(super) struct StackPart {
    heading: Option<String>,
    before: Vec<Words>,
    lines: Vec<Line>,
    after: Vec<Words>,
}

/// A line of a stack.
struct Line {
    label: String,
    name: String,
    place: String,
    mark: &'static str,
    variables: String,
    source: Vec<SourceLine>,
    calls: Option<String>,
}

/// A line of source text.
struct SourceLine {
    mark: char,
    number: u32,
    text: String,
}

impl StackPart {
    /// Creates the part of a stack, of which `lines` lines are shown at most. The source lines around a place are
    /// shown once in a page.
    pub(super) fn new(
        shown: ShownStack<'_>,
        sources: &Sources,
        room: &mut Room,
        lines: usize,
    ) -> Self {
        let ShownStack { heading, before, frames, mut after } = shown;
        let left_out = frames.rows.len().saturating_sub(lines);
        if left_out > 0 {
            let words =
                format!("{left_out} more functions, left out: in the plain text and the JSON");
            after.push(crate::phrase::Phrase::new(crate::phrase::Tone::Dim, &words));
        }
        let mut calls = frames.calls;
        let rows = frames.rows.into_iter().take(lines);
        Self {
            heading: heading.map(|heading| line(&heading)),
            before: before.into_iter().map(Words::from).collect(),
            lines: rows.map(|row| shown_line(row, calls.take(), sources, room)).collect(),
            after: after.into_iter().map(Words::from).collect(),
        }
    }
}

fn shown_line(row: Row<'_>, calls: Option<String>, sources: &Sources, room: &mut Room) -> Line {
    let Row { label, name, place, is_doubtful, is_interrupted, function } = row;
    let mark = match (is_doubtful, is_interrupted) {
        (false, false) => "",
        (true, false) => "? not vouched for",
        (false, true) => "(interrupted)",
        (true, true) => "? not vouched for (interrupted)",
    };
    let variables = function.map_or_else(String::new, variables_of);
    let source = function.map_or_else(Vec::new, |function| source_of(function, sources, room));
    Line { label, name, place, mark, variables, source, calls }
}

fn variables_of(function: &Function) -> String {
    let all = variables::in_order(function);
    let mut shown: Vec<String> = all
        .take(MAX_VARIABLES)
        .map(|variable| cut(line(&format!("{} = {}", variable.name, variable.value)), MAX_VARIABLE))
        .collect();
    let left_out = function.variables.len().saturating_sub(MAX_VARIABLES) as u64;
    match left_out.saturating_add(function.variables_omitted) {
        0 => {}
        more => shown.push(format!("… {more} more")),
    }
    shown.join(", ")
}

fn source_of(function: &Function, sources: &Sources, room: &mut Room) -> Vec<SourceLine> {
    let (Some(file), Some(number)) = (&function.file, function.line) else { return Vec::new() };
    let Some(Excerpt { first, lines }) = sources.get(file, number) else { return Vec::new() };
    if !room.is_new_place(file, number) {
        return Vec::new();
    }
    let lines = (*first..).zip(lines);
    let line = |(at, text): (u32, &String)| SourceLine {
        mark: if at == number { '>' } else { ' ' },
        number: at,
        // Tabs are layout in source text.
        text: line(&text.replace('\t', "    ")),
    };
    lines.map(line).collect()
}
