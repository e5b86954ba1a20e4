//! Places: no crossings in graphs of this tool's reports, and no overlaps in any.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::cases::{self, Case};
use super::drawing::Drawing;
use crate::wait_graph::{NoPicture, Picture, Waits};
use crate::{ActivityState, LockKind, Report, WaitKind};

fn svg(waits: Waits<'_>) -> String {
    Picture::new(waits).unwrap().svg("graph", &|party| Some(format!("stack-{party}")))
}

#[track_caller]
fn assert_clear(name: &str, waits: Waits<'_>) {
    let drawing = Drawing::read(&svg(waits));
    assert_eq!(drawing.faults(), Vec::<String>::new(), "{name}");
    assert_eq!(drawing.crossings(), 0, "{name}");
}

#[test]
fn pictures_of_all_shapes_of_hangs_have_no_crossings_and_no_overlaps() {
    for (name, case) in cases::all() {
        assert_clear(&name, case.waits());
    }
}

/// Returns the reports of the stored targets.
fn stored_reports() -> Vec<(PathBuf, Report)> {
    let mut pending = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/offline")];
    let mut reports = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "json") {
                let report = crate::json::read(&std::fs::read(&path).unwrap());
                reports.extend(report.ok().map(|report| (path, report)));
            }
        }
    }
    reports.sort_by(|(path, _), (other, _)| path.cmp(other));
    reports
}

#[test]
fn pictures_of_stored_hangs_have_no_crossings_and_no_overlaps() {
    let mut arrows = 0;
    for (path, report) in stored_reports() {
        let hangs = report.hangs.iter().map(Waits::from);
        let moments = report.backtraces.iter().filter_map(|moment| moment.waits.as_ref());
        for waits in hangs.chain(moments.map(Waits::from)) {
            assert_clear(&path.display().to_string(), waits);
            arrows += Drawing::read(&svg(waits)).lines.len();
        }
    }
    assert!(arrows > 80, "the stored reports have {arrows} arrows");
}

#[test]
fn every_wait_of_a_small_graph_has_a_line_between_its_boxes() {
    let case = cases::abba();
    let drawing = Drawing::read(&svg(case.waits()));
    assert_eq!((drawing.lines.len(), drawing.outlines.len()), (4, 4));
}

/// The check itself: two lines of a picture are moved onto each other.
#[test]
fn crossings_and_overlaps_are_found_in_a_picture_that_has_them() {
    let case = cases::abba();
    let mut drawing = Drawing::read(&svg(case.waits()));
    let (start, end) = (drawing.outlines[0][0], drawing.outlines[3][2]);
    drawing.lines[0] = vec![start, end];
    assert!(drawing.crossings() > 0);
    assert!(!drawing.faults().is_empty());
}

#[test]
fn pictures_are_the_same_each_time() {
    let case = cases::large();
    assert_eq!(svg(case.waits()), svg(case.waits()));
}

#[test]
fn a_graph_without_parties_has_no_picture() {
    let case = Case::default();
    assert_eq!(Picture::new(case.waits()).unwrap_err(), NoPicture::Empty);
}

#[test]
fn a_graph_of_too_many_parties_has_a_reason_for_a_picture() {
    let mut case = Case::default();
    for number in 0..401 {
        case = case.task(&format!("t{number}"));
        let to = format!("t{}", (number + 1) % 401);
        case = case.edge(&format!("t{number}"), &to, WaitKind::WaitsFor);
    }
    let reason = Picture::new(case.waits()).unwrap_err();
    assert_eq!(reason, NoPicture::TooLarge { boxes: 401, arrows: 401 });
    assert!(reason.to_string().contains("401 boxes"), "{reason}");
}

#[test]
fn arrows_with_too_many_bends_are_not_drawn() {
    // A path, and waits from its first half for its second one: each passes half of the path.
    let mut case = Case::default();
    let name = |number: usize| format!("t{number}");
    for number in 0..300 {
        case = case.task(&name(number));
    }
    for number in 1..300 {
        case = case.waits_for(&name(number - 1), &name(number));
    }
    for number in 0..150 {
        case = case.waits_for(&name(number), &name(number + 150));
    }
    assert_eq!(Picture::new(case.waits()).unwrap_err(), NoPicture::Entangled);
}

/// Returns a graph in which party `i` waits for party `targets[i]`, if there is one.
fn graph(targets: &[usize], second: &[usize]) -> Case {
    let name = |index: usize| match index % 3 {
        0 => format!("cpu{index}"),
        1 => format!("task {index} of a name that is too long for a box"),
        _ => format!("L{index}"),
    };
    let mut case = Case::default();
    for index in 0..targets.len() {
        case = match index % 3 {
            0 => case.cpu(index as u32, ActivityState::Running),
            1 => case.task(&name(index)),
            _ => case.lock(&name(index), LockKind::Mutex, None),
        };
    }
    for (index, &target) in targets.iter().enumerate().filter(|(_, to)| **to < targets.len()) {
        case = case.waits_for(&name(index), &name(target));
    }
    for (index, &target) in second.iter().enumerate().filter(|(_, to)| **to < targets.len()) {
        case = case.edge(&name(index % targets.len()), &name(target), WaitKind::CallsFunction);
    }
    case
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn where_each_party_waits_for_one_other_there_are_no_crossings(
        targets in proptest::collection::vec(0_usize..32, 1..26)
    ) {
        let case = graph(&targets, &[]);
        // A wait for oneself is beside the box.
        let drawing = Drawing::read(&svg(case.waits()));
        prop_assert_eq!(drawing.faults(), Vec::<String>::new());
        prop_assert_eq!(drawing.crossings(), 0);
    }

    #[test]
    fn nothing_overlaps_in_any_graph(
        targets in proptest::collection::vec(0_usize..20, 1..16),
        second in proptest::collection::vec(0_usize..20, 0..24),
    ) {
        let case = graph(&targets, &second);
        let drawing = Drawing::read(&svg(case.waits()));
        prop_assert_eq!(drawing.faults(), Vec::<String>::new());
    }
}
