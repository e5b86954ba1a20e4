//! Tests of the guardian: the guest is resumed when the tool cannot resume it. QEMU is scripted, and the
//! guardians are real processes.

mod common;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use common::*;
use nmiscope_qemu::{Deadlines, Qemu, QemuError, ReleaseOutcome, RunState, hold};
use serde_json::json;

#[test]
fn guardian_process() {
    serve_as_guardian();
}

fn open<T: Send + 'static>(script: impl FnOnce(Peer) -> T + Send + 'static) -> (Fake<T>, Qemu) {
    let fake = Fake::start(script);
    let qemu = Qemu::open(&fake.address, deadlines()).expect("a monitor");
    (fake, qemu)
}

/// Plays QEMU up to and including the answer to `stop`.
fn stops(peer: &mut Peer) {
    peer.negotiate();
    let command = peer.answer_queries();
    assert_eq!(command["execute"], "stop");
    peer.answer(&command, json!({}));
    let command = peer.command();
    assert_eq!(command["execute"], "query-status");
    peer.answer(&command, status("paused"));
}

#[test]
fn resumed_vm_needs_no_guardian() {
    let (fake, mut qemu) = open(|mut peer| {
        stops(&mut peer);
        let command = peer.command();
        assert_eq!(command["execute"], "cont");
        peer.answer(&command, json!({}));
        peer.command()
    });
    let stopped = qemu.stop(guardian()).expect("a stopped VM");
    assert!(stopped.must_resume());
    assert!(matches!(stopped.release(), ReleaseOutcome::Resumed { expired: false, .. }));
    drop(qemu);
    // The guardian has not sent a command.
    assert!(fake.end().is_null());
}

#[test]
fn vm_stopped_before_is_left_stopped() {
    let (fake, mut qemu) = open(|mut peer| {
        peer.negotiate();
        let command = peer.command();
        peer.answer(&command, status("prelaunch"));
        peer.answer_queries()
    });
    let missing = Command::new("/nonexistent/guardian");
    let stopped = qemu.stop(missing).expect("a stopped VM");
    assert_eq!((stopped.must_resume(), stopped.run_state()), (false, &RunState::PreLaunch));
    assert!(matches!(stopped.release(), ReleaseOutcome::LeftStopped));
    drop(qemu);
    assert!(fake.end().is_null());
}

#[test]
fn guest_that_panics_before_the_stop_is_not_resumed() {
    let (fake, mut qemu) = open(|mut peer| {
        peer.negotiate();
        let command = peer.answer_queries();
        peer.answer(&command, json!({}));
        let command = peer.command();
        peer.answer(&command, status("guest-panicked"));
        peer.command()
    });
    let stopped = qemu.stop(guardian()).expect("a stopped VM");
    assert_eq!((stopped.must_resume(), stopped.run_state()), (false, &RunState::GuestPanicked));
    drop(stopped);
    drop(qemu);
    assert!(fake.end().is_null());
}

#[test]
fn nothing_is_stopped_without_a_guardian() {
    for program in ["/nonexistent/guardian", "false"] {
        let (fake, mut qemu) = open(|mut peer| {
            peer.negotiate();
            peer.answer_queries()
        });
        let error = qemu.stop(Command::new(program)).expect_err("no guardian");
        assert!(matches!(error, QemuError::Guardian(_)), "{error}");
        drop(qemu);
        assert!(fake.end().is_null());
    }
}

#[test]
fn stop_without_an_answer_is_undone_by_the_guardian() {
    let (fake, mut qemu) = open(|mut peer| {
        peer.negotiate();
        let stop = peer.answer_queries();
        assert_eq!(stop["execute"], "stop");
        // The disks hang for longer than the tool waits; then QEMU answers in order.
        let query = peer.command();
        peer.answer(&stop, json!({}));
        assert_eq!(query["execute"], "query-status");
        peer.answer(&query, status("paused"));
        let cont = peer.command();
        peer.answer(&cont, json!({}));
        cont["execute"].clone()
    });
    let error = qemu.stop(guardian()).expect_err("no answer");
    assert!(matches!(error, QemuError::StopUnanswered { .. }), "{error}");
    assert!(matches!(qemu.states(), Err(QemuError::Qmp(_))), "the connection is the guardian's");
    drop(qemu);
    assert_eq!(fake.end(), "cont");
}

#[test]
fn refused_cont_is_retried() {
    let (fake, mut qemu) = open(|mut peer| {
        stops(&mut peer);
        let refused = json!({ "class": "GenericError", "desc": "There is a dump in process" });
        let command = peer.command();
        peer.line(json!({ "error": refused, "id": command["id"] }));
        for state in ["save-vm", "paused"] {
            let command = peer.command();
            assert_eq!(command["execute"], "query-status");
            peer.answer(&command, status(state));
        }
        let command = peer.command();
        peer.answer(&command, json!({}));
        command["execute"].clone()
    });
    let stopped = qemu.stop(guardian()).expect("a stopped VM");
    assert!(matches!(stopped.release(), ReleaseOutcome::HandedOver { .. }));
    assert_eq!(fake.end(), "cont");
}

#[test]
fn expired_pause_is_ended_by_the_guardian() {
    let (paused, has_paused) = std::sync::mpsc::channel();
    let fake = Fake::start(move |mut peer| {
        stops(&mut peer);
        // First the guardian's `cont`, while the tool does nothing; then the tool's.
        let early = peer.command();
        peer.answer(&early, json!({}));
        paused.send(()).expect("a tool");
        let mut cont = peer.command();
        while cont["id"] == early["id"]
            || cont["id"].as_str().is_some_and(|id| id.starts_with("hold"))
        {
            peer.answer(&cont, json!({}));
            cont = peer.command();
        }
        peer.answer(&cont, json!({}));
        (early["execute"].clone(), cont["execute"].clone())
    });
    let deadlines = Deadlines { pause: Duration::from_millis(200), ..deadlines() };
    let mut qemu = Qemu::open(&fake.address, deadlines).expect("a monitor");
    let stopped = qemu.stop(guardian()).expect("a stopped VM");
    has_paused.recv_timeout(PATIENCE).expect("the guardian's cont");
    assert!(matches!(stopped.release(), ReleaseOutcome::Resumed { expired: true, .. }));
    drop(qemu);
    assert_eq!(fake.end(), (json!("cont"), json!("cont")));
}

#[test]
fn partial_answer_left_by_the_tool_is_skipped() {
    let (tool, qemu) = UnixStream::pair().expect("a pair");
    let mut peer = Peer::new(qemu);
    let mut held = hold::start(guardian(), std::os::fd::AsFd::as_fd(&tool), PATIENCE).expect("one");
    held.arm(PATIENCE).expect("a guardian");
    peer.say("us\": \"running\"}, \"id\": \"nmiscope-7\"}\r\n{\"event\": \"STOP\"}\r\n");
    drop(tool);
    drop(held);
    let command = peer.command();
    assert_eq!(command["execute"], "query-status");
    peer.answer(&command, status("paused"));
    let command = peer.command();
    assert_eq!(command["execute"], "cont");
    peer.answer(&command, json!({}));
    assert!(peer.command().is_null());
}

#[test]
fn guardian_without_a_link_is_refused() {
    let (link, other) = UnixStream::pair().expect("a pair");
    drop(other);
    assert!(matches!(hold::run(OwnedFd::from(link), PATIENCE), Err(hold::GuardianError::NoLink)));
    let null = std::fs::File::open("/dev/null").expect("a file");
    assert!(matches!(hold::run(OwnedFd::from(null), PATIENCE), Err(hold::GuardianError::NoLink)));
}
