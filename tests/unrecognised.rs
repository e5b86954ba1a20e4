//! `nmiscope attach` of guests of QEMU in which no kernel is recognised, or none of whose CPUs executes one: each has
//! its state in the report, and no broken stack.
//!
//! The Linux guest is made by `tests/linux_guest/kernel.sh`.

use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nmiscope_qemu::{Address, Deadlines, Qmp};
use nmiscope_report::{Cpu, CpuFinding, GuestKernel, Report};

use crate::common::*;

/// Longest time that a test waits for the guest: Linux boots under TCG, in 10 s on an idle host.
const PATIENCE: Duration = Duration::from_secs(300);
/// Time for which a guest runs between two looks: short for a state that it leaves soon, long for one that it stays in
/// and has to come to, since each stop costs it much of its translated code.
const SHORT: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_millis(300);

/// A QEMU that has not executed an instruction yet. Dropping it kills QEMU.
struct Vm {
    running: Option<Running>,
    qmp: Qmp,
}

impl Vm {
    fn start(arguments: &[&str]) -> Self {
        let qemu = program(Command::new("qemu-system-x86_64"), ["-accel", "tcg", "-cpu", "max"])
            .args(["-M", "q35", "-m", "256", "-smp", "2", "-S", "-display", "none"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-qmp", "unix:qmp,server=on,wait=off", "-qmp", "unix:second,server=on,wait=off"])
            .args(arguments);
        let running = qemu.deadline(2 * PATIENCE).start();
        let address = Address::Path(running.directory.path().join("second"));
        let end = Instant::now() + PATIENCE;
        let qmp = loop {
            match Qmp::connect(&address, &Deadlines::default()) {
                Ok(qmp) => break qmp,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            sleep(Duration::from_millis(10));
        };
        Self { running: Some(running), qmp }
    }

    fn linux(parameters: &str) -> Self {
        let directory = std::env::var_os("NMISCOPE_LINUX").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/linux"),
            PathBuf::from,
        );
        let kernel = directory.join("vmlinuz").display().to_string();
        let initrd = directory.join("initrd").display().to_string();
        Self::start(&["-kernel", &kernel, "-initrd", &initrd, "-append", parameters])
    }

    fn execute(&mut self, command: &str) {
        self.qmp.execute(command, PATIENCE).expect("an answer");
    }

    /// Lets the guest run until the registers of its vCPUs, as QEMU prints them, fulfil a condition, and stops it
    /// there. It runs for `slice` between two looks.
    fn run_until(&mut self, slice: Duration, condition: impl Fn(&str) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.execute("cont");
            sleep(slice);
            self.execute("stop");
            let registers = self.qmp.execute_hmp("info registers -a", PATIENCE).expect("registers");
            if condition(&registers) {
                return;
            }
            assert!(Instant::now() < end, "not within {PATIENCE:?}:\n{registers}");
        }
    }

    fn attach(&self) -> Report {
        let directory = self.running.as_ref().expect("a QEMU").directory.path();
        let qmp = directory.join("qmp").display().to_string();
        let arguments = ["attach", "--qmp", &qmp, "--max-pause", "60s"];
        nmiscope(arguments).with_report().run().expect_code(exit::CLEAN).report()
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

#[track_caller]
fn reason(report: &Report) -> &str {
    let broken = report.backtraces[0].cpus.iter().flat_map(|cpu| &cpu.findings);
    let broken: Vec<&CpuFinding> = broken.collect();
    assert!(broken.is_empty(), "{broken:?}");
    match &report.image.kernel {
        GuestKernel::Unknown { reason } => reason,
        kernel => panic!("{kernel:?}"),
    }
}

#[test]
#[ignore = "needs QEMU"]
fn firmware_of_qemu_is_named_before_and_after_its_first_instruction() {
    let mut vm = Vm::start(&[]);
    let report = vm.attach();
    let text = reason(&report);
    assert!(text.starts_with("no vCPU has executed an instruction since its reset"), "{text}");
    // SeaBIOS without a disk ends in a loop of its real-mode code.
    vm.run_until(SHORT, |registers| {
        let first = registers.split("CPU#1").next().unwrap_or_default();
        first.contains("HLT=1") || first.contains("CS =f000")
    });
    let report = vm.attach();
    let text = reason(&report);
    assert!(text.contains("SeaBIOS"), "{text}");
}

#[test]
#[ignore = "needs QEMU and a Linux kernel"]
fn boot_stub_of_linux_is_named_before_the_kernel_is_unpacked() {
    let mut vm = Vm::linux("console=ttyS0 no_timer_check");
    // EFER.LME and LMA, at an address below 2 GiB: SeaBIOS has no long mode.
    vm.run_until(SHORT, |registers| {
        let first = registers.split("CPU#1").next().unwrap_or_default();
        first.contains("RIP=00000000") && first.contains("EFER=0000000000000500")
    });
    let report = vm.attach();
    let text = reason(&report);
    assert!(text.starts_with("probably Linux's boot stub"), "{text}");
    assert!(text.contains("cpu0 in 64-bit code at a low address"), "{text}");
}

#[test]
#[ignore = "needs QEMU and a Linux kernel"]
fn linux_is_recognised_while_its_cpus_execute_programs() {
    // Not in the background: a shell would want /dev/null for that, which is not there.
    let loops = "while :; do :; done | while :; do :; done";
    let parameters =
        format!("no_timer_check pti=on rdinit=/bin/busybox elfcorehdr=64M -- sh -c \"{loops}\"");
    let mut vm = Vm::linux(&parameters);
    vm.run_until(LONG, |registers| registers.matches("CPL=3").count() == 2);
    let report = vm.attach();
    let GuestKernel::Known { name } = &report.image.kernel else {
        panic!("{:?}", report.image.kernel);
    };
    // The parameter is the mark of a kdump kernel.
    assert!(name.starts_with("Linux ") && name.ends_with(", a kdump kernel"), "{name}");
    let ends_in_program = |cpu: &Cpu| cpu.host_stack.as_ref().is_some_and(|stack| stack.complete);
    assert!(
        report.backtraces[0].cpus.iter().all(ends_in_program),
        "{:?}",
        report.backtraces[0].cpus
    );
}
