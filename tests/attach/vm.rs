//! The QEMU of a test: the bundled guest, a monitor for the tool, and one for the test.

use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nmiscope_qemu::{Address, Deadlines, Qmp};
use serde_json::{Value, json};

use crate::common::*;

/// The longest that anything of QEMU's is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

const IMAGE: &str = "guest.elf";

/// A QEMU under TCG, and the test's client of it. It ends with the value.
pub struct Vm {
    running: Option<Running>,
    qmp: Qmp,
}

impl Vm {
    /// Starts the bundled guest with that workload.
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
        // The socket is there a moment before QEMU listens on it.
        let mut qmp = None;
        wait_until("QEMU answers", || {
            qmp = Qmp::connect(&Address::Path(second.clone()), &deadlines).ok();
            qmp.is_some()
        });
        let qmp = qmp.expect("a monitor");
        Self { running: Some(running), qmp }
    }

    /// One whose guest is in its hang, and so gives the same report at any moment.
    pub fn hung(workload: &str, cpus: u32) -> Self {
        let vm = Self::start(workload, cpus);
        wait_until("the guest hangs", || vm.attach().run().status.code() == Some(exit::HANG));
        vm
    }

    /// A path in QEMU's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.running().directory.path().join(name)
    }

    /// The process.
    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("QEMU runs until it is dropped")
    }

    /// `nmiscope attach` to it by its socket.
    pub fn attach(&self) -> Invocation {
        nmiscope(["attach", "--qmp", &self.path("qmp").display().to_string()])
    }

    /// Carries out a command of QEMU's.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        self.qmp.execute_with(command, arguments, PATIENCE).expect(command)
    }

    /// The run state by QEMU's name.
    pub fn run_state(&mut self) -> String {
        let answer = self.execute("query-status", &Value::Null);
        answer["status"].as_str().expect("a status").to_owned()
    }

    /// A dump of the guest, which runs again afterwards.
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

/// Polls until it is so.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(1));
    }
}
