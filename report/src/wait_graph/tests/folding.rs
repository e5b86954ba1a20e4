//! Folding: which parties share a box, and what their box says.

use super::cases::{self, Case};
use super::geometry::elements;
use crate::wait_graph::{Picture, sentences};
use crate::{ActivityState, LockKind};

fn boxes(case: &Case) -> Vec<String> {
    let svg = Picture::new(case.waits()).unwrap().svg("graph", &|_| None);
    let names = elements(&svg).into_iter().filter(|element| element.has_class("wg-name"));
    names.map(|name| name.text.to_owned()).collect()
}

#[test]
fn idle_cpus_share_a_box_with_their_ranges() {
    let case = cases::chain();
    let svg = Picture::new(case.waits()).unwrap().svg("graph", &|_| None);
    assert!(svg.contains(">15 idle CPUs<"), "{svg}");
    assert!(svg.contains(">cpu1-cpu15<"), "{svg}");
    assert_eq!(boxes(&case).len(), 5);
}

#[test]
fn eight_equal_waiters_have_a_box_each_and_nine_have_one() {
    assert_eq!(boxes(&cases::waiters(8)).len(), 10);
    assert_eq!(boxes(&cases::waiters(9)), ["9 waiting tasks", "tree", "holder"]);
}

#[test]
fn the_title_of_folded_waiters_names_them_and_counts_the_rest() {
    let case = cases::waiters(300);
    let svg = Picture::new(case.waits()).unwrap().svg("graph", &|_| None);
    assert!(svg.contains("300 waiting tasks: reader0/110, reader1/111, "), "{svg}");
    assert!(svg.contains("reader199/309, and 100 more; victim<"), "{svg}");
}

#[test]
fn a_blamed_waiter_is_not_in_the_box_of_its_victims() {
    let mut case = cases::waiters(12);
    let blamed = case.victims.remove(3);
    case.blamed.push(blamed.clone());
    assert!(boxes(&case).contains(&blamed));
}

#[test]
fn two_hundred_parties_have_at_most_sixty_boxes() {
    let case = cases::large();
    assert_eq!(case.nodes.len(), 200);
    assert!(boxes(&case).len() <= 60, "{} boxes", boxes(&case).len());
}

#[test]
fn folded_parties_share_the_index_of_their_box() {
    let case = cases::waiters(20);
    let picture = Picture::new(case.waits()).unwrap();
    assert_eq!(picture.box_of("reader0/110"), picture.box_of("reader19/129"));
    assert_ne!(picture.box_of("reader0/110"), picture.box_of("holder"));
    assert_eq!(picture.box_of("nobody"), None);
}

#[test]
fn blamed_and_other_cpus_without_waits_are_apart() {
    let case = Case::default().cpus(0..4, ActivityState::Stuck).blamed(&["cpu1"]);
    assert_eq!(boxes(&case), ["cpu1", "3 stuck CPUs"]);
    assert_eq!(
        sentences(case.waits()),
        ["3 stuck CPUs: cpu0, cpu2, cpu3", "cpu1: CPU, stuck; blamed"]
    );
}

#[test]
fn several_locks_have_their_plural() {
    let case = ["A", "B"]
        .into_iter()
        .fold(Case::default(), |case, name| case.lock(name, LockKind::Mutex, None));
    assert_eq!(boxes(&case), ["2 mutexes"]);
}
