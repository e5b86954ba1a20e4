//! Stored core as a target: a capture reads a core and a VM by the same code, and a core's missing powers
//! are recorded in the capture. Needs no KVM.

use std::fs;
use std::time::Duration;

use crate::offline::{CORES, directory};
use nmiscope::capture::note::CaptureNote;
use nmiscope::capture::{
    BufferReservation, Capture, CaptureRequest, NmiCapture, NoReservation, NotSent, StoppedGuest,
    Timeouts,
};
use nmiscope::elf_core::Core;
use nmiscope::images::{Access, DebugSearch, Files};
use nmiscope::kernel::{self, KernelAdapter};
use nmiscope::session::StackChoice;
use nmiscope::session::offline::{Stored, report};
use nmiscope::targets::{Dump, MissingPower, Target};
use nmiscope_report::Trigger;
use serde_json::Value;

fn for_each_core(check: impl Fn(&str, &mut Dump<'_>, &dyn KernelAdapter, &Capture)) {
    let files = Files::open(Some(&directory().join("guest.elf")), Access::Read).expect("the image");
    let kernel = kernel::recognise(&files.parse().expect("an image"));
    for name in CORES {
        let bytes = fs::read(directory().join(format!("cores/{name}.core"))).expect("a core");
        let core = Core::parse(&bytes).expect("a core");
        let live = CaptureNote::read(&core).expect("a note").capture;
        let states = live.cpus.iter().map(|cpu| cpu.state.clone()).collect();
        check(name, &mut Dump::new(core, states), &*kernel, &live);
    }
}

fn stop(dump: &mut Dump<'_>, kernel: &dyn KernelAdapter) -> StoppedGuest {
    let bounds = Timeouts::for_vcpus(dump.vcpus());
    StoppedGuest::stop(dump, kernel, None, bounds)
}

#[test]
fn a_core_gives_the_kernel_state_of_the_vm() {
    for_each_core(|name, dump, kernel, live| {
        let stopped = stop(dump, kernel);
        let states: Vec<_> = live.cpus.iter().map(|cpu| cpu.state.clone()).collect();
        assert_eq!(stopped.states, states, "{name}");
        let of_vm = live.kernel.known().expect("a state of the kernel");
        let of_core = stopped.kernel.known().expect("a state of the kernel");
        assert_eq!(of_core, of_vm, "{name}");
    });
}

/// Removes the kernel's state from a core's note, which is JSON with room behind it.
fn without_kernel_state(bytes: &[u8]) -> Vec<u8> {
    let core = Core::parse(bytes).expect("a core");
    let mut note: Value = serde_json::from_slice(core.note()).expect("JSON");
    assert!(note["capture"]["kernel"].is_object());
    note["capture"]["kernel"] = Value::Null;
    let mut written = serde_json::to_vec(&note).expect("JSON");
    let length = core.note().len();
    assert!(written.len() < length);
    written.resize(length, b' ');
    let at = bytes.windows(length).position(|window| window == core.note()).expect("the note");
    let mut bytes = bytes.to_vec();
    bytes[at..at + length].copy_from_slice(&written);
    bytes
}

#[test]
fn a_report_from_a_core_reads_the_kernel_state_from_memory() {
    let image = directory().join("guest.elf");
    let report_of = |bytes: Vec<u8>| {
        let stored = Stored::from_bytes(bytes, "some.core");
        report(
            &stored,
            std::slice::from_ref(&image),
            &DebugSearch::in_directories(&["/nonexistent".into()]),
            StackChoice::default(),
        )
        .expect("a report")
    };
    for name in CORES {
        let bytes = fs::read(directory().join(format!("cores/{name}.core"))).expect("a core");
        let without = without_kernel_state(&bytes);
        assert_eq!(report_of(without), report_of(bytes), "{name}");
    }
}

#[test]
fn missing_powers_of_a_core_are_recorded_in_its_capture() {
    for_each_core(|name, dump, kernel, _| {
        let request = CaptureRequest {
            trigger: Trigger::Timer,
            at: Duration::ZERO,
            found: None,
            history: None,
            nmis: true,
            symbols: None,
            core: None,
            sampling: None,
        };
        let (capture, _) = stop(dump, kernel).capture(dump, request);
        let reason = NoReservation::MissingPower(MissingPower::Words);
        assert_eq!(capture.reservation, BufferReservation::Unavailable { reason }, "{name}");
        let reason = NmiCapture::NotSent(NotSent::MissingPower(MissingPower::Nmis));
        for cpu in &capture.cpus {
            assert_eq!(cpu.nmi, reason, "{name}");
            assert!(cpu.buffer.is_ok(), "{name}: a buffer is memory");
        }
    });
}

#[test]
fn a_core_has_no_powers() {
    for_each_core(|name, dump, _, _| {
        assert_eq!(dump.pausing().err(), Some(MissingPower::Pausing), "{name}");
        assert_eq!(dump.words().err(), Some(MissingPower::Words), "{name}");
        assert_eq!(dump.nmis().err(), Some(MissingPower::Nmis), "{name}");
        assert_eq!(dump.host().err(), Some(MissingPower::Host), "{name}");
        assert_eq!((dump.tsc(0), dump.console_bytes()), (None, None), "{name}");
    });
}
