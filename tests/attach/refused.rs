//! Tests of VMs that cannot be attached to: exit code 2 for a wrong name, code 5 for a VM that cannot be
//! read, one line that names the remedy, and a guest that still runs.

use std::io::Write as _;
use std::os::unix::net::UnixListener;

use nmiscope_qemu::{Address, Deadlines, Qmp};
use rustix::process::Signal;

use super::vm::Vm;
use crate::common::*;

/// Asserts that an attach fails with code 5 and one line that contains `wanted`.
#[track_caller]
fn assert_not_attachable(invocation: Invocation, wanted: &str) {
    let finished = invocation.run().expect_code(exit::TOOL_FAILED);
    let all = finished.all();
    assert!(finished.stderr.starts_with("error: failed to attach to the VM: "), "{all}");
    assert_eq!(finished.stderr.lines().count(), 1, "{all}");
    assert!(finished.stderr.contains(wanted), "{wanted:?} is to be in {all}");
    assert_eq!(finished.stdout, "", "{all}");
}

#[test]
#[ignore = "needs QEMU"]
fn stopped_qemu_process_is_reported_as_stuck() {
    let mut vm = Vm::start("idle", 1);
    vm.running().signal(Signal::STOP);
    assert_not_attachable(vm.attach(), "its QEMU is stuck");
    vm.running().signal(Signal::CONT);
    // QEMU has now carried out the commands that the tool sent before.
    vm.attach().run().expect_code(exit::CLEAN);
    assert_eq!(vm.run_state(), "running");
}

#[test]
#[ignore = "needs QEMU"]
fn monitor_held_by_another_client_is_reported_as_held() {
    let mut vm = Vm::start("idle", 1);
    let address = Address::Path(vm.path("qmp"));
    let other = Qmp::connect(&address, &Deadlines::default()).expect("a monitor");
    assert_not_attachable(vm.attach(), "another client holds this monitor");
    // The other monitor of the process is the test's own.
    let pid = vm.running().pid().to_string();
    assert_not_attachable(nmiscope(["attach", "--pid", &pid]), "another client holds this monitor");
    drop(other);
    nmiscope(["attach", "--pid", &pid]).run().expect_code(exit::CLEAN);
    assert_eq!(vm.run_state(), "running");
}

#[test]
#[ignore = "needs QEMU"]
fn image_other_than_the_guests_is_refused() {
    let vm = Vm::hung("abba-deadlock", 2);
    let mut other = nmiscope::bundled::image().to_vec();
    let id = nmiscope_symbolizer::Image::parse(&other).expect("an image").build_id();
    let id = id.expect("a build-id").to_vec();
    let at = other.windows(id.len()).position(|bytes| bytes == id).expect("the build-id");
    other[at] ^= 1;
    let attach = vm.attach().with_file("other.elf", &other).args(["--image", "other.elf"]);
    refused(attach, "is another image");
}

#[test]
fn socket_without_qmp_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let shown = path.display().to_string();
    let listener = UnixListener::bind(&path).expect("a socket");
    let greeter = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        // The client may have disconnected already.
        let _ = stream.write_all(b"QEMU 7.2.22 monitor - type 'help' for more information\r\n");
    });
    refused(nmiscope(["attach", "--qmp", &shown]), "is not QMP");
    greeter.join().expect("a greeter");
    // The listener has ended, but its socket file still exists.
    refused(nmiscope(["attach", "--qmp", &shown]), "no process listens there");
    std::fs::remove_file(&path).expect("a socket");
    refused(nmiscope(["attach", "--qmp", &shown]), "there is no such socket");
}

#[test]
fn missing_process_or_one_that_is_no_qemu_is_refused() {
    refused(nmiscope(["attach", "--pid", "0"]), "there is no such process");
    // Linux assigns no PID this high (PID_MAX_LIMIT is 4 Mi).
    refused(nmiscope(["attach", "--pid", "2147483647"]), "there is no such process");
    let own = std::process::id().to_string();
    refused(nmiscope(["attach", "--pid", &own]), "not a QEMU");
}
