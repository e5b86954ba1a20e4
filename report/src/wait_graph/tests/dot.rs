//! Dot: its statements as graphviz reads them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::wait_graph::dot;
use crate::{Report, WaitKind};

const HOSTILE: &str = "a\"b\\c\\N\\\\\" -> &amp; &#65; <b>\\";

fn report() -> Report {
    let stored = include_bytes!("../../../tests/former/mutex-deadlock.json");
    crate::json::read(stored).unwrap()
}

/// Gives a party of the first hang another name, in its node and in its waits.
fn rename(report: &mut Report, from: &str, to: &str) {
    let hang = &mut report.hangs[0];
    let ids = hang.nodes.iter_mut().map(|node| &mut node.id);
    let ends = hang.edges.iter_mut().flat_map(|edge| [&mut edge.from, &mut edge.to]);
    ids.chain(ends).filter(|id| *id == from).for_each(|id| *id = to.to_owned());
}

#[test]
fn dot_has_a_statement_for_each_party_and_each_wait() {
    let text = dot(&report());
    assert_eq!(text.matches(" -> ").count(), 4);
    assert!(text.contains("[label=\"held 0.5 s by\" style=dashed"), "{text}");
    assert!(text.contains("label=\"reader\\ntask on cpu"), "{text}");
    assert!(text.contains("shape=hexagon"), "{text}");
}

#[test]
fn without_hangs_the_waits_of_the_last_moment_are_drawn() {
    let mut report = report();
    let hang = report.hangs.remove(0);
    report.backtraces.iter_mut().for_each(|backtrace| backtrace.waits = None);
    assert_eq!(dot(&report).matches(" -> ").count(), 0);
    let waits = crate::WaitGraph { nodes: hang.nodes, edges: hang.edges };
    report.backtraces.last_mut().unwrap().waits = Some(waits);
    assert_eq!(dot(&report).matches(" -> ").count(), 4);
}

/// Returns what graphviz makes of a text.
fn graphviz(text: &str) -> Value {
    let mut command = Command::new("dot");
    command.arg("-Tjson").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}\n{text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the lines of text that graphviz writes for an object.
fn written(object: &Value) -> Vec<&str> {
    let drawn = object["_ldraw_"].as_array().unwrap();
    drawn
        .iter()
        .filter(|step| step["op"] == "T")
        .map(|step| step["text"].as_str().unwrap())
        .collect()
}

#[test]
#[ignore = "needs graphviz"]
fn graphviz_draws_the_parties_and_waits_of_the_report() {
    let mut report = report();
    rename(&mut report, "reader", HOSTILE);
    let drawn = graphviz(&dot(&report));
    let objects = drawn["objects"].as_array().unwrap();
    let nodes: Vec<_> = objects.iter().filter(|object| object.get("nodes").is_none()).collect();
    let mut names: Vec<_> = nodes.iter().map(|node| written(node)[0].to_owned()).collect();
    let hang = &report.hangs[0];
    let mut expected: Vec<_> = hang.nodes.iter().map(|node| node.id.clone()).collect();
    names.sort_unstable();
    expected.sort_unstable();
    assert_eq!(names, expected);

    let name = |id: &Value| {
        let node = objects.iter().find(|object| object["_gvid"] == *id).unwrap();
        written(node)[0].to_owned()
    };
    let edges = drawn["edges"].as_array().unwrap();
    let mut drawn: Vec<_> = edges
        .iter()
        .map(|edge| (name(&edge["tail"]), name(&edge["head"]), edge["style"] == "dashed"))
        .collect();
    let mut expected: Vec<_> = hang
        .edges
        .iter()
        .map(|edge| (edge.from.clone(), edge.to.clone(), edge.kind == WaitKind::HeldBy))
        .collect();
    drawn.sort_unstable();
    expected.sort_unstable();
    assert_eq!(drawn, expected);
}
