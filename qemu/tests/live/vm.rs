//! A QEMU for one test, which ends with the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nmiscope_qemu::{Address, Deadlines, Qemu, Qmp, QmpError, RunState};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::PATIENCE;

/// Path of the bundled guest's image.
pub const GUEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/offline/guest.elf");

pub struct Vm {
    child: Child,
    directory: TempDir,
}

impl Vm {
    /// Starts a QEMU with two monitors, and waits until both sockets exist.
    pub fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        for name in ["qmp", "qmp2"] {
            let path = directory.path().join(name);
            command.args(["-qmp", &format!("unix:{},server=on,wait=off", path.display())]);
        }
        let child = command.args(arguments).stdin(Stdio::null()).spawn().expect("QEMU starts");
        let vm = Self { child, directory };
        wait_until("QEMU listens", || vm.path("qmp2").exists());
        vm
    }

    /// Starts the bundled guest with this workload, and waits until it is in long mode.
    pub fn guest(workload: &str, arguments: &[&str]) -> Self {
        let parameters = format!("workload={workload}");
        let kernel = ["-kernel", GUEST, "-append", &parameters];
        let vm = Self::start(&[arguments, &kernel].concat());
        let mut qemu = vm.open();
        wait_until("the guest boots", || {
            let states = qemu.states().expect("registers");
            states.iter().all(|cpu| cpu.state.registers.is_long_mode())
        });
        vm
    }

    pub fn pid(&self) -> i32 {
        self.child.id().try_into().expect("a number")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn address(&self) -> Address {
        Address::Path(self.path("qmp"))
    }

    pub fn open(&self) -> Qemu {
        Qemu::open(&self.address(), patient()).expect("a monitor")
    }

    /// Connects to the second monitor.
    pub fn second(&self) -> Qmp {
        Qmp::connect(&Address::Path(self.path("qmp2")), &patient()).expect("a monitor")
    }

    /// Reads a field of `/proc/PID/status`, in KiB.
    pub fn kib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a status");
        let line = status.lines().find(|line| line.starts_with(name)).expect("the line");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Deadlines long enough for a slow machine.
pub fn patient() -> Deadlines {
    Deadlines {
        connect: PATIENCE,
        greeting: PATIENCE,
        command: PATIENCE,
        stop: PATIENCE,
        guardian: PATIENCE,
        pause: PATIENCE,
    }
}

pub fn execute(qmp: &mut Qmp, command: &str, arguments: &Value) -> Value {
    qmp.execute_with(command, arguments, PATIENCE).expect(command)
}

pub fn run_state(qmp: &mut Qmp) -> RunState {
    let answer = execute(qmp, "query-status", &Value::Null);
    RunState::from_name(answer["status"].as_str().expect("a status"))
}

pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(1));
    }
}

/// Has QEMU write guest-physical memory to a file, and reads the file.
pub fn pmemsave(qmp: &mut Qmp, address: u64, size: usize, path: &Path) -> Vec<u8> {
    let arguments = json!({ "val": address, "size": size, "filename": path });
    execute(qmp, "pmemsave", &arguments);
    fs::read(path).expect("QEMU's file")
}

/// True if this user may use KVM on this machine.
pub fn has_kvm() -> bool {
    fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

pub fn is_no_answer(error: &QmpError) -> bool {
    matches!(error, QmpError::NoAnswer { .. })
}
