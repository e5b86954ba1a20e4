//! Shapes of boxes and lines of arrows, as path data of SVG.
//!
//! Owns the form of each kind of party: a CPU is a rectangle, a task a rounded one, a lock a hexagon, and a queue a
//! lying cylinder. Called by `svg`.

use std::fmt::Write as _;

use super::layout::{LOOP_WIDTH, Rectangle, Route};
use crate::NodeKind;

/// Length and half the width of an arrow's head.
const HEAD: (f64, f64) = (9.0, 5.5);
/// The control points of a quarter of an ellipse are at this part of its radius.
const QUARTER: f64 = 0.552;
/// Width of a hexagon's points, and of a cylinder's ends.
const POINT: f64 = 14.0;
const END: f64 = 9.0;
const RADIUS: f64 = 14.0;

/// Length of most path data, in bytes.
const CAPACITY: usize = 240;

/// Path data that is being written.
struct Data(String);

impl Data {
    fn new() -> Self {
        Self(String::with_capacity(CAPACITY))
    }

    fn add(mut self, command: char, points: &[(f64, f64)]) -> Self {
        self.0.push(command);
        for (index, &(x, y)) in points.iter().enumerate() {
            if index > 0 {
                self.0.push(' ');
            }
            write_number(&mut self.0, x);
            self.0.push(' ');
            write_number(&mut self.0, y);
        }
        self
    }

    fn close(mut self) -> String {
        self.0.push('Z');
        self.0
    }
}

/// Returns a number with one decimal at most, as in SVG.
pub fn number(value: f64) -> String {
    let mut text = String::new();
    write_number(&mut text, value);
    text
}

fn write_number(text: &mut String, value: f64) {
    // A picture is less than a million pixels wide.
    let tenths = (value * 10.0).round() as i64;
    if tenths < 0 {
        text.push('-');
    }
    let (whole, tenth) = (tenths.unsigned_abs() / 10, tenths.unsigned_abs() % 10);
    let _ = write!(text, "{whole}");
    if tenth > 0 {
        let _ = write!(text, ".{tenth}");
    }
}

/// Returns the outline of a box.
pub fn outline(kind: &NodeKind, seen: Rectangle) -> String {
    let Rectangle { x, y, width, height } = seen;
    let (right, bottom, middle) = (x + width, y + height, y + height / 2.0);
    match kind {
        NodeKind::Cpu { .. } => Data::new()
            .add('M', &[(x, y)])
            .add('L', &[(right, y), (right, bottom), (x, bottom)])
            .close(),
        NodeKind::Task { .. } => ends(seen, RADIUS, RADIUS),
        NodeKind::Lock { .. } => Data::new()
            .add('M', &[(x + POINT, y)])
            .add('L', &[(right - POINT, y), (right, middle), (right - POINT, bottom)])
            .add('L', &[(x + POINT, bottom), (x, middle)])
            .close(),
        NodeKind::Queue { .. } => ends(seen, END, height / 2.0),
    }
}

/// Returns a rectangle whose corners are quarters of an ellipse with these radii.
fn ends(seen: Rectangle, across: f64, down: f64) -> String {
    let Rectangle { x, y, width, height } = seen;
    let (right, bottom) = (x + width, y + height);
    let (near_x, near_y) = (across * (1.0 - QUARTER), down * (1.0 - QUARTER));
    Data::new()
        .add('M', &[(x + across, y)])
        .add('L', &[(right - across, y)])
        .add('C', &[(right - near_x, y), (right, y + near_y), (right, y + down)])
        .add('L', &[(right, bottom - down)])
        .add('C', &[(right, bottom - near_y), (right - near_x, bottom), (right - across, bottom)])
        .add('L', &[(x + across, bottom)])
        .add('C', &[(x + near_x, bottom), (x, bottom - near_y), (x, bottom - down)])
        .add('L', &[(x, y + down)])
        .add('C', &[(x, y + near_y), (x + near_x, y), (x + across, y)])
        .close()
}

/// Returns the visible edge of a cylinder's end.
pub fn cylinder_end(seen: Rectangle) -> String {
    let Rectangle { x, y, width, height } = seen;
    let (edge, bottom, middle) = (x + width - END, y + height, y + height / 2.0);
    let (near_x, near_y) = (END * QUARTER, height / 2.0 * QUARTER);
    Data::new()
        .add('M', &[(edge, y)])
        .add('C', &[(edge - near_x, y), (edge - END, middle - near_y), (edge - END, middle)])
        .add('C', &[(edge - END, middle + near_y), (edge - near_x, bottom), (edge, bottom)])
        .0
}

/// Returns a rectangle with its edges moved to the inside, or to the outside if negative.
pub fn inset(seen: Rectangle, by: f64) -> Rectangle {
    let Rectangle { x, y, width, height } = seen;
    Rectangle { x: x + by, y: y + by, width: width - 2.0 * by, height: height - 2.0 * by }
}

/// Returns the line of an arrow, which ends where its head begins.
pub fn line(route: &Route) -> String {
    if route.is_loop {
        return loop_line(route);
    }
    let mut pieces = route.pieces.clone();
    if route.is_upward {
        pieces.iter_mut().take(1).for_each(|piece| piece.1 += HEAD.0 - 1.0);
    } else {
        pieces.iter_mut().rev().take(1).for_each(|piece| piece.2 -= HEAD.0 - 1.0);
    }
    let mut data = Data::new();
    let mut last: Option<(f64, f64)> = None;
    for (x, top, bottom) in pieces {
        data = match last {
            None => data.add('M', &[(x, top)]),
            // Straight on.
            Some((before, _)) if (before - x).abs() < 0.05 => data,
            Some((before, above)) => {
                let middle = f64::midpoint(above, top);
                data.add('L', &[(before, above)])
                    .add('C', &[(before, middle), (x, middle), (x, top)])
            }
        };
        last = Some((x, bottom));
    }
    last.map_or(Data::new(), |end| data.add('L', &[end])).0
}

/// Returns the line of an arrow that ends at the box where it begins.
fn loop_line(route: &Route) -> String {
    let Some(&(x, top, bottom)) = route.pieces.first() else { return String::new() };
    let far = x + LOOP_WIDTH;
    let end = x + HEAD.0 - 1.0;
    Data::new().add('M', &[(x, top)]).add('C', &[(far, top), (far, bottom), (end, bottom)]).0
}

/// Returns the head of an arrow.
pub fn head(route: &Route) -> String {
    let (length, half) = HEAD;
    let pieces = &route.pieces;
    let Some((&(first_x, top, loop_end), &(last_x, _, bottom))) = pieces.first().zip(pieces.last())
    else {
        return String::new();
    };
    let [tip, one, other] = if route.is_loop {
        let (x, y) = (first_x, loop_end);
        [(x, y), (x + length, y - half), (x + length, y + half)]
    } else if route.is_upward {
        let (x, y) = (first_x, top);
        [(x, y), (x - half, y + length), (x + half, y + length)]
    } else {
        let (x, y) = (last_x, bottom);
        [(x, y), (x + half, y - length), (x - half, y - length)]
    };
    Data::new().add('M', &[tip]).add('L', &[one, other]).close()
}
