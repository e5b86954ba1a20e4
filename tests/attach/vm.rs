//! A QEMU for one test, with the bundled guest, a monitor for the tool, and one for the test.

use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nmiscope_qemu::{Address, Deadlines, Qmp};
use serde_json::{Value, json};

use crate::common::*;

/// Longest time that a test waits for QEMU.
pub const PATIENCE: Duration = Duration::from_secs(60);

const IMAGE: &str = "guest.elf";

/// A QEMU under TCG, and the test's monitor connection. Dropping it kills QEMU.
pub struct Vm {
    running: Option<Running>,
    qmp: Qmp,
}

impl Vm {
    /// Starts the bundled guest with this workload.
    pub fn start(workload: &str, cpus: u32) -> Self {
        let parameters = format!("workload={workload}");
        let mut invocation = program(Command::new("qemu-system-x86_64"), ["-accel", "tcg"])
            .args(["-m", "64", "-smp", &cpus.to_string(), "-kernel", IMAGE, "-append", &parameters])
            .args(["-display", "none", "-serial", "none", "-nodefaults", "-no-user-config"])
            .arg("-no-reboot")
            .with_file(IMAGE, nmiscope::bundled::image());
        for name in ["qmp", "second"] {
            let path = invocation.directory.path().join(name);
            let option = format!("unix:{},server=on,wait=off", path.display());
            invocation = invocation.args(["-qmp", &option]);
        }
        let running = invocation.start();
        let second = running.directory.path().join("second");
        wait_until("QEMU listens", || second.exists());
        let deadlines = Deadlines {
            connect: PATIENCE,
            greeting: PATIENCE,
            command: PATIENCE,
            ..Deadlines::default()
        };
        // The socket exists a moment before QEMU listens on it.
        let mut qmp = None;
        wait_until("QEMU answers", || {
            qmp = Qmp::connect(&Address::Path(second.clone()), &deadlines).ok();
            qmp.is_some()
        });
        let qmp = qmp.expect("a monitor");
        Self { running: Some(running), qmp }
    }

    /// Starts the bundled guest and waits until its workload hangs: the report is then the same at any
    /// moment.
    pub fn hung(workload: &str, cpus: u32) -> Self {
        let vm = Self::start(workload, cpus);
        wait_until("the guest hangs", || vm.attach().run().status.code() == Some(exit::HANG));
        vm
    }

    /// Returns a path in QEMU's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.running().directory.path().join(name)
    }

    /// Handle of the running QEMU process.
    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("QEMU runs until it is dropped")
    }

    /// Returns an `nmiscope attach` to this VM's socket.
    pub fn attach(&self) -> Invocation {
        nmiscope(["attach", "--qmp", &self.path("qmp").display().to_string()])
    }

    /// Executes a QMP command and returns its answer.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        self.qmp.execute_with(command, arguments, PATIENCE).expect(command)
    }

    /// Queries the run state, by QEMU's name.
    pub fn run_state(&mut self) -> String {
        let answer = self.execute("query-status", &Value::Null);
        answer["status"].as_str().expect("a status").to_owned()
    }

    /// Has QEMU dump the guest, which runs again afterwards.
    pub fn dump(&mut self) -> Vec<u8> {
        let file = self.path("dump");
        let protocol = format!("file:{}", file.display());
        self.execute("dump-guest-memory", &json!({ "paging": false, "protocol": protocol }));
        let bytes = std::fs::read(&file).expect("a dump");
        // QEMU makes it read-only.
        std::fs::remove_file(&file).expect("a dump");
        bytes
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.kill();
            running.wait();
        }
    }
}

/// Polls until `is_so` returns true; panics after [`PATIENCE`].
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(1));
    }
}
