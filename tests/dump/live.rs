//! Tests of the bundled guest with one workload in QEMU and in a VM of nmiscope: the reports are equal except
//! for times, the guest's own traces, and facts that a dump lacks. Needs QEMU, which runs without KVM, and
//! `/dev/kvm`.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::*;
use crate::common::*;
use nmiscope::capture::note::CaptureNote;
use nmiscope::elf_core::{Core, ElfCore};
use nmiscope::targets::Dump;
use nmiscope_report::{Certainty, Class};
use serde_json::{Value, json};

const IMAGE: &str = "guest.elf";
const MONITOR: &str = "monitor";

/// A connection to QEMU's QMP monitor.
struct Monitor {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(directory: &Path) -> Self {
        let start = Instant::now();
        let stream = loop {
            match UnixStream::connect(directory.join(MONITOR)) {
                Ok(stream) => break stream,
                Err(error) if start.elapsed() > Duration::from_secs(30) => panic!("QEMU: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a deadline");
        let lines = BufReader::new(stream.try_clone().expect("a socket"));
        let mut monitor = Self { stream, lines };
        monitor.line();
        monitor.command("qmp_capabilities", json!({}));
        monitor
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("QEMU answers");
        serde_json::from_str(&line).expect("JSON")
    }

    fn command(&mut self, name: &str, arguments: Value) {
        let command = format!("{}\n", json!({"execute": name, "arguments": arguments}));
        // Sent in one piece: QEMU does not wait for the end of the line, and may exit before it.
        self.stream.write_all(command.as_bytes()).expect("QEMU reads");
        // Events may come before the reply.
        loop {
            let answer = self.line();
            assert!(answer.get("error").is_none(), "{name}: {answer}");
            if answer.get("return").is_some() {
                return;
            }
        }
    }
}

/// Returns a dump of the bundled guest, taken once its state is as `wanted`.
fn dump_of_qemu(
    workload: &str,
    cpus: u32,
    paging: bool,
    wanted: impl Fn(&[u8]) -> bool,
) -> Vec<u8> {
    let parameters = format!("workload={workload}");
    let running = program(Command::new("qemu-system-x86_64"), ["-accel", "tcg", "-m", "16"])
        .args(["-smp", &cpus.to_string(), "-kernel", IMAGE, "-append", &parameters])
        .args(["-display", "none", "-serial", "none", "-nodefaults", "-no-user-config"])
        .args(["-no-reboot", "-qmp", &format!("unix:{MONITOR},server=on,wait=off")])
        .with_file(IMAGE, nmiscope::bundled::image())
        .start();
    let directory = running.directory.path().to_owned();
    let file = directory.join("dump");
    let mut monitor = Monitor::connect(&directory);
    let start = Instant::now();
    let bytes = loop {
        std::thread::sleep(Duration::from_millis(500));
        monitor.command("stop", json!({}));
        let protocol = format!("file:{}", file.display());
        monitor.command("dump-guest-memory", json!({"paging": paging, "protocol": protocol}));
        let bytes = fs::read(&file).expect("a dump");
        // QEMU makes it read-only.
        fs::remove_file(&file).expect("a dump");
        if wanted(&bytes) {
            break bytes;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{workload} does not hang in QEMU");
        monitor.command("cont", json!({}));
    };
    monitor.command("quit", json!({}));
    running.wait().expect_code(0);
    bytes
}

/// Asserts that a VM of nmiscope and a guest of QEMU with this workload give equal reports.
fn are_the_same(workload: &str, cpus: u32, paging: bool) {
    let live = run_workload(workload, cpus)
        .args(["--memory", "16M", "--hang-after", "500ms", "--core", "hang.core"])
        .with_file(IMAGE, nmiscope::bundled::image())
        .run();
    let image = live.directory.path().join(IMAGE);
    let core = fs::read(live.directory.path().join("hang.core")).expect("a core");
    let core = Core::parse(&core).expect("a core");
    let note = CaptureNote::read(&core).expect("a note");
    let states = note.capture.cpus.iter().map(|cpu| cpu.state.clone()).collect();
    let of_core = doing(Dump::new(core, states), &image);
    let read = |bytes: &[u8]| {
        let dump = Dump::from_elf(ElfCore::parse(bytes).expect("a core")).expect("a dump");
        try_doing(dump, &image)
    };
    let dump = dump_of_qemu(workload, cpus, paging, |bytes| read(bytes).as_ref() == Some(&of_core));
    let live = live.report();
    // The bundled guest is found by its build-id.
    let stored = report_of(dump, None).expect("a report");
    assert_eq!(stored.image.build_id, live.image.build_id);
    let (live, stored) = (&live.backtraces[0], &stored.backtraces[0]);
    assert_eq!(stacks(stored), stacks(live), "{workload}");
    assert_eq!(log(stored), log(live), "{workload}");
}

macro_rules! workloads {
    ($($test:ident: $name:literal, $cpus:literal, $paging:literal;)*) => {
        $(
            #[test]
            #[ignore = "needs QEMU"]
            fn $test() {
                are_the_same($name, $cpus, $paging);
            }
        )*
    };
}

workloads! {
    qemus_abba_deadlock_is_that_of_a_vm: "abba-deadlock", 3, false;
    qemus_mutex_deadlock_is_that_of_a_vm: "mutex-deadlock", 2, true;
    qemus_ipi_wait_is_that_of_a_vm: "ipi-wait", 3, false;
    qemus_null_deref_is_that_of_a_vm: "null-deref", 2, false;
}

/// Both tasks of the workload sleep. By the guest's clock one of them has for over 3 s, which would be a hang
/// of a party that runs.
#[test]
#[ignore = "needs QEMU"]
fn sleepers_in_a_dump_are_suspected_until_their_own_bound() {
    let hang_in = |bytes: &[u8]| {
        let hangs = report_of(bytes.to_vec(), None).ok()?.hangs;
        hangs.into_iter().find(|hang| hang.class == Class::LockWait)
    };
    let is_old = |bytes: &[u8]| hang_in(bytes).is_some_and(|hang| hang.lasted_ms > 3000.0);
    let dump = dump_of_qemu("sleeping-holder", 1, false, is_old);
    let hang = hang_in(&dump).expect("a hang");
    assert_eq!(
        (&hang.blamed[..], &hang.victims[..]),
        (&["sleeper".into()][..], &["waiter".into()][..])
    );
    let bound = match hang.certainty {
        Certainty::Suspected { bound_ms, .. } => Some(bound_ms),
        _ => None,
    };
    assert_eq!(bound, Some(120_000.0), "{hang:?}");
}
