//! Tests of the client against fake monitors that misbehave or refuse.

mod common;

use std::os::unix::net::UnixListener;
use std::time::Duration;

use common::*;
use nmiscope_qemu::{
    Address, Deadlines, Qemu, QemuError, Qmp, QmpError, Readiness, RunState, StatusError,
};
use serde_json::json;

const SOON: Duration = Duration::from_millis(200);

fn connect(address: &Address) -> Result<Qmp, QmpError> {
    Qmp::connect(address, &deadlines())
}

/// Connects to a fake monitor whose script begins after the negotiation.
fn negotiated<T: Send + 'static>(
    script: impl FnOnce(Peer) -> T + Send + 'static,
) -> (Fake<T>, Qmp) {
    let fake = Fake::start(move |mut peer| {
        peer.negotiate();
        script(peer)
    });
    let qmp = connect(&fake.address).expect("a connection");
    (fake, qmp)
}

#[test]
fn address_without_a_listener_is_distinguished() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("qmp");
    let address = Address::Path(path.clone());
    assert!(matches!(connect(&address), Err(QmpError::NoSocket(_))));
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(matches!(connect(&address), Err(QmpError::Refused(_))));
    let name = Address::Abstract(b"nmiscope-no-such-name".to_vec());
    assert!(matches!(connect(&name), Err(QmpError::Refused(_))));
    let long = Address::Abstract(vec![b'a'; 200]);
    assert!(matches!(connect(&long), Err(QmpError::BadAddress(_))));
}

#[test]
fn path_longer_than_a_socket_address_is_reached() {
    let directory = tempfile::tempdir().expect("a directory");
    let deep = directory.path().join("d".repeat(120));
    std::fs::create_dir(&deep).expect("a directory");
    let link = directory.path().join("short");
    std::os::unix::fs::symlink(&deep, &link).expect("a link");
    let _listener = UnixListener::bind(link.join("qmp")).expect("a socket");
    let error = connect(&Address::Path(deep.join("qmp"))).expect_err("no greeting");
    assert!(matches!(error, QmpError::NoGreeting { .. }), "{error}");
}

#[test]
fn monitor_held_by_another_client_gives_no_greeting() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("qmp");
    let _listener = UnixListener::bind(&path).expect("a socket");
    let error = connect(&Address::Path(path)).expect_err("no greeting");
    assert!(matches!(error, QmpError::NoGreeting { .. }));
    assert!(error.to_string().contains("another client holds this monitor"));
}

#[test]
fn socket_of_another_program_is_not_qmp() {
    for text in
        ["HTTP/1.1 400 Bad Request\r\n", "{\"hello\": 1}\r\n", "QEMU 7.2 monitor\r\n(qemu) "]
    {
        let fake = Fake::start(move |mut peer| {
            peer.say(text);
            peer.command()
        });
        let error = connect(&fake.address).expect_err("not QMP");
        let QmpError::NotQmp { line, .. } = &error else { panic!("{error}") };
        assert!(text.starts_with(line.as_str()), "{line}");
        fake.end();
    }
    // A prompt without an end of line.
    let fake = Fake::start(|mut peer| {
        peer.say("(qemu) ");
        peer.command()
    });
    assert!(matches!(connect(&fake.address), Err(QmpError::NotQmp { .. })));
    fake.end();
}

#[test]
fn events_before_an_answer_are_queued() {
    let (fake, mut qmp) = negotiated(|mut peer| {
        let command = peer.command();
        peer.line(r#"{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}"#);
        peer.answer(&command, json!(7));
    });
    assert_eq!(qmp.execute("stop", PATIENCE).expect("an answer"), 7);
    let names: Vec<String> = qmp.take_events().into_iter().map(|event| event.name).collect();
    assert_eq!(names, ["STOP"]);
    assert!(qmp.take_events().is_empty());
    assert_eq!(qmp.version().map(|version| version.major), Some(7));
    fake.end();
}

#[test]
fn late_answer_is_not_matched_to_the_next_command() {
    let (fake, mut qmp) = negotiated(|mut peer| {
        let first = peer.command();
        let second = peer.command();
        peer.answer(&first, json!("first"));
        peer.answer(&second, json!("second"));
    });
    let error = qmp.execute("query-status", SOON).expect_err("no answer");
    assert!(error.is_unanswered());
    assert_eq!(qmp.execute("query-name", PATIENCE).expect("an answer"), "second");
    fake.end();
}

#[test]
fn error_from_qemu_keeps_its_class_and_description() {
    let (fake, mut qmp) = negotiated(|mut peer| {
        let id = peer.command()["id"].clone();
        let error =
            json!({ "class": "CommandNotFound", "desc": "The command x has not been found" });
        peer.line(json!({ "error": error, "id": id }));
    });
    let error = qmp.execute("x", PATIENCE).expect_err("an error");
    assert!(matches!(&error, QmpError::Command { class, .. } if class == "CommandNotFound"));
    assert!(error.to_string().ends_with("The command x has not been found"));
    fake.end();
}

#[test]
fn connection_closed_within_an_answer_is_reported_as_closed() {
    let (fake, mut qmp) = negotiated(|mut peer| {
        peer.command();
        peer.say(r#"{"return": {"sta"#);
    });
    assert!(matches!(qmp.execute("query-status", PATIENCE), Err(QmpError::Closed { .. })));
    fake.end();
}

#[test]
fn answer_that_is_no_json_is_quoted() {
    let (fake, mut qmp) = negotiated(|mut peer| {
        peer.command();
        peer.line("\u{1b}[2Jhello");
    });
    let error = qmp.execute("query-status", PATIENCE).expect_err("no message");
    assert!(error.to_string().contains(r#""\u{1b}[2Jhello""#), "{error}");
    fake.end();
}

#[test]
fn line_without_an_end_is_refused() {
    let (fake, mut qmp) = negotiated(|mut peer| {
        peer.command();
        let piece = "a".repeat(1 << 20);
        for _ in 0..18 {
            peer.say(&piece);
        }
    });
    let error = qmp.execute("query-status", PATIENCE).expect_err("too long");
    assert!(matches!(error, QmpError::TooLong { limit, .. } if limit == 16 << 20));
    drop(qmp);
    fake.end();
}

#[test]
fn line_of_15_mib_is_read() {
    let (fake, mut qmp) = negotiated(|mut peer| {
        let command = peer.command();
        peer.answer(&command, json!("b".repeat(15 << 20)));
    });
    let answer = qmp.execute("human-monitor-command", PATIENCE).expect("an answer");
    assert_eq!(answer.as_str().map(str::len), Some(15 << 20));
    fake.end();
}

#[test]
fn endless_events_do_not_extend_the_deadline() {
    let (fake, mut qmp) = negotiated(|mut peer| {
        peer.command();
        let events = "{\"event\": \"RTC_CHANGE\", \"data\": {\"offset\": 1}}\r\n".repeat(1000);
        for _ in 0..1_000_000 {
            // Ends once the client has disconnected.
            if peer.try_say(&events).is_err() {
                break;
            }
        }
    });
    let error = qmp.execute("query-status", SOON).expect_err("no answer");
    assert!(error.is_unanswered());
    assert_eq!(qmp.take_events().len(), 256);
    drop(qmp);
    fake.end();
}

/// Opens a fake VM that answers each command with `answers`; null is a refusal.
fn vm(answers: impl Fn(&str) -> serde_json::Value + Send + 'static) -> (Fake<()>, Qemu) {
    let fake = Fake::start(move |mut peer| {
        peer.negotiate();
        loop {
            let command = peer.command();
            let Some(name) = command["execute"].as_str() else { break };
            let answer = answers(name);
            if answer.is_null() {
                let error = json!({ "class": "CommandNotFound", "desc": "no such command" });
                peer.line(json!({ "error": error, "id": command["id"] }));
            } else {
                peer.answer(&command, answer);
            }
        }
    });
    let qemu = Qemu::open(&fake.address, deadlines()).expect("a monitor");
    (fake, qemu)
}

fn readiness(
    answers: impl Fn(&str) -> serde_json::Value + Send + 'static,
) -> Result<Readiness, QemuError> {
    let (fake, mut qemu) = vm(answers);
    let readiness = qemu.readiness();
    drop(qemu);
    fake.end();
    readiness
}

#[test]
fn vm_with_an_operation_under_way_is_refused() {
    let busy = |answer| matches!(answer, Err(QemuError::Status(StatusError::Busy(_))));
    assert!(busy(readiness(|_| status("save-vm"))));
    assert!(busy(readiness(|_| status("inmigrate"))));
    assert!(busy(readiness(|name| match name {
        "query-status" => status("running"),
        "query-migrate" => json!({ "status": "active" }),
        _ => json!(null),
    })));
    assert!(busy(readiness(|name| match name {
        "query-status" => status("running"),
        "query-dump" => json!({ "status": "active", "completed": 1, "total": 2 }),
        _ => json!(null),
    })));
}

#[test]
fn vm_with_encrypted_memory_is_refused() {
    let by = |answer| match answer {
        Err(QemuError::Status(StatusError::Encrypted { by })) => by,
        other => panic!("{other:?}"),
    };
    let sev = readiness(|name| match name {
        "query-status" => status("running"),
        "query-sev" => json!({ "enabled": true }),
        _ => json!(null),
    });
    assert_eq!(by(sev), "AMD SEV");
    let tdx = readiness(|name| match name {
        "query-status" => status("running"),
        "qom-get" => json!("tdx-guest"),
        _ => json!(null),
    });
    assert_eq!(by(tdx), "tdx-guest");
}

#[test]
fn old_qemu_without_the_queries_is_ready() {
    let only_status = |name: &str| match name {
        "query-status" => status("running"),
        _ => json!(null),
    };
    assert_eq!(readiness(only_status).expect("ready"), Readiness::Running);
    let paused = |name: &str| match name {
        "query-status" => status("guest-panicked"),
        _ => json!(null),
    };
    let stopped = Readiness::Stopped(RunState::GuestPanicked);
    assert_eq!(readiness(paused).expect("ready"), stopped);
}

#[test]
fn answer_of_another_shape_is_unexpected() {
    let error = readiness(|_| json!({ "state": 1 })).expect_err("no status");
    assert!(
        matches!(error, QemuError::Qmp(QmpError::Unexpected { .. }) | QemuError::Status(_)),
        "{error}"
    );
    assert!(error.to_string().contains("query-status"), "{error}");
}

#[test]
fn default_stop_deadline_is_the_documented_one() {
    assert_eq!(Deadlines::default().stop, Duration::from_secs(2));
}
