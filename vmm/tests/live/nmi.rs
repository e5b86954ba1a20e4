//! Running one NMI handler at a time in a stopped world.

use std::time::{Duration, Instant};

use nmiscope_machine::{MpState, NmiResult, NmiRun, Outcome};
use nmiscope_vmm::VmEvent;

use crate::support::asm::Asm;
use crate::support::{
    COM1, COUNTER, EXIT, LONG, NMI_DONE, NMIS, POST, TestVm, counting, with_nmi_handler,
};

fn spinning(handler: impl FnOnce(Asm) -> Asm) -> TestVm {
    let machine = TestVm::boot(1, &with_nmi_handler(|asm| asm.spin(COUNTER), handler));
    machine.wait_beyond(COUNTER, 0);
    machine
}

fn run_nmi(machine: &mut TestVm, bound: Duration) -> NmiRun {
    machine.vm.run_nmi(&[0], bound).pop().unwrap().unwrap()
}

#[test]
fn a_spinning_vcpu_runs_its_handler_and_stops_again() {
    let mut machine = spinning(counting);
    let before = machine.pause()[0];
    let count = machine.word(COUNTER);
    let run = run_nmi(&mut machine, LONG);
    assert_eq!((run.injected, &run.result), (true, &NmiResult::Finished));
    assert!(!before.nmi.unwrap().masked && run.after.masked && !run.after.pending);
    assert_eq!(machine.word(NMIS), 1);
    // The interrupted program may have finished the instruction it was at, but none after it.
    assert!(machine.word(COUNTER) - count <= 1);
    let count = machine.word(COUNTER);
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(machine.word(COUNTER), count, "it should be stopped");
    machine.vm.resume();
    machine.wait_beyond(COUNTER, count);
    machine.pause();
    assert!(!machine.vm.state(0).unwrap().is_in_nmi(), "the handler should have returned");
}

#[test]
fn a_finished_handler_is_stopped_right_after_its_last_write() {
    // A marker after the write to the port: mov eax, 0x5a5a must not have been executed.
    let mut machine = spinning(|asm| {
        asm.raw(&[0x50]).out8(NMI_DONE, 0).raw(&[0xb8, 0x5a, 0x5a, 0, 0, 0x58]).iretq()
    });
    machine.pause();
    run_nmi(&mut machine, LONG);
    let registers = machine.vm.state(0).unwrap().registers;
    // push eax (1), mov edx (5), mov al (2), out (1)
    assert_eq!(registers.rip, 0x10_1000 + 9);
    assert_ne!(registers.rax, 0x5a5a);
}

#[test]
fn a_second_nmi_works_with_or_without_running_between() {
    let mut machine = spinning(counting);
    machine.pause();
    assert!(run_nmi(&mut machine, LONG).finished());
    assert!(machine.vm.state(0).unwrap().is_in_nmi(), "it should still be in its handler");
    assert!(run_nmi(&mut machine, LONG).finished());
    assert_eq!(machine.word(NMIS), 2);
    machine.vm.resume();
    machine.wait_beyond(COUNTER, machine.word(COUNTER));
    machine.pause();
    assert!(run_nmi(&mut machine, LONG).finished());
    assert_eq!(machine.word(NMIS), 3);
}

#[test]
fn a_vcpu_halted_for_good_takes_an_nmi() {
    let image = with_nmi_handler(|asm| asm.out8(POST, 1).halt_for_good(), counting);
    let mut machine = TestVm::boot(1, &image);
    machine.wait_for_post(1);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(machine.pause()[0].mp_state, MpState::Halted);
    assert!(run_nmi(&mut machine, LONG).finished());
    assert_eq!(machine.word(NMIS), 1);
}

#[test]
fn a_handler_that_never_finishes_is_stopped_at_the_bound() {
    let mut machine = spinning(|asm| asm.spin(NMIS));
    machine.pause();
    let started = Instant::now();
    let first = run_nmi(&mut machine, Duration::from_millis(50));
    assert!(started.elapsed() >= Duration::from_millis(50), "{:?}", started.elapsed());
    assert_eq!(first.result, NmiResult::Unfinished);
    assert!(first.after.masked && !first.after.pending);
    assert!(first.run_time > Duration::ZERO && first.wall <= started.elapsed(), "{first:?}");

    let second = run_nmi(&mut machine, Duration::from_millis(50));
    assert_eq!((second.injected, second.result), (true, NmiResult::Unfinished));
    assert!(second.after.masked && second.after.pending, "{:?}", second.after);
}

#[test]
fn a_handler_may_print_and_read_ports() {
    let mut machine = spinning(|asm| counting(asm.out8(COM1, b'#').in_al(COM1 + 5)));
    machine.pause();
    assert!(run_nmi(&mut machine, LONG).finished());
    assert_eq!(machine.output(), "#");
}

#[test]
fn a_handler_that_ends_the_vm_is_an_outcome() {
    let mut machine = spinning(|asm| asm.out8(EXIT, 9).halt_for_good());
    machine.pause();
    let ended = Outcome::DebugExit { cpu: 0, code: 9 };
    assert_eq!(run_nmi(&mut machine, LONG).result, NmiResult::Ended(ended.clone()));
    assert_eq!(machine.outcome(), ended);
    // The vCPU never leaves that handler, so another NMI stays pending.
    let again = run_nmi(&mut machine, Duration::from_millis(50));
    assert_eq!((again.injected, again.result), (true, NmiResult::Unfinished));
    assert!(again.after.masked && again.after.pending);
}

#[test]
fn a_vcpu_that_ended_the_vm_still_takes_an_nmi() {
    let image = with_nmi_handler(|asm| asm.out8(EXIT, 9).halt_for_good(), counting);
    let mut machine = TestVm::boot(1, &image);
    assert_eq!(machine.outcome(), Outcome::DebugExit { cpu: 0, code: 9 });
    machine.pause();
    assert!(run_nmi(&mut machine, LONG).finished());
    assert_eq!(machine.word(NMIS), 1);
}

#[test]
fn a_vcpu_that_was_never_started_gets_no_nmi() {
    let image = with_nmi_handler(|asm| asm.spin(COUNTER), counting);
    let mut machine = TestVm::boot(3, &image);
    machine.wait_beyond(COUNTER, 0);
    machine.pause();
    let runs = machine.vm.run_nmi(&[2, 0, 1], LONG);
    let results: Vec<_> = runs
        .into_iter()
        .map(Result::unwrap)
        .map(|run| (run.cpu, run.injected, run.result))
        .collect();
    let expected = [
        (2, false, NmiResult::NotStarted),
        (0, true, NmiResult::Finished),
        (1, false, NmiResult::NotStarted),
    ];
    assert_eq!(results, expected);
}

#[test]
fn a_broadcast_nmi_reaches_a_running_guest() {
    let machine = spinning(counting);
    machine.vm.broadcast_nmi_msi().unwrap();
    assert!(matches!(machine.event(), VmEvent::NmiDone { cpu: 0, .. }));
    assert_eq!(machine.word(NMIS), 1);
}
