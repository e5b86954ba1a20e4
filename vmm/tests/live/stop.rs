//! Stopping all vCPUs, reading their state, resuming them, and shutting down.

use std::time::{Duration, Instant};

use nmiscope_machine::MpState;
use nmiscope_vmm::VcpuError;

use crate::support::asm::Asm;
use crate::support::image::PvhImage;
use crate::support::{CODE, COM1, COUNTER, LONG, POST, TestVm, all_spinning, spinning};

#[test]
fn a_paused_guest_stops_and_a_resumed_one_runs() {
    let mut machine = spinning();
    machine.pause();
    let count = machine.word(COUNTER);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(machine.word(COUNTER), count);
    machine.vm.resume();
    machine.wait_beyond(COUNTER, count);
}

#[test]
fn two_thousand_pauses_lose_no_kick() {
    let mut machine = spinning();
    let count = machine.word(COUNTER);
    for _ in 0..2000 {
        machine.pause();
        machine.vm.resume();
    }
    machine.wait_beyond(COUNTER, count);
}

#[test]
fn pauses_of_a_constantly_exiting_guest_lose_no_kick() {
    let asm = Asm::at(CODE);
    let top = asm.here();
    let mut machine = TestVm::run(asm.in_al(COM1 + 5).inc(COUNTER).jump(top));
    for _ in 0..500 {
        machine.pause();
        machine.vm.resume();
    }
    let count = machine.word(COUNTER);
    machine.wait_beyond(COUNTER, count);
}

#[test]
fn pause_and_resume_are_idempotent() {
    let mut machine = spinning();
    machine.pause();
    machine.pause();
    machine.vm.resume();
    machine.vm.resume();
    let count = machine.word(COUNTER);
    machine.wait_beyond(COUNTER, count);
}

#[test]
fn a_guest_stopped_in_port_accesses_is_between_instructions() {
    // A loop of `mov edx` (5 bytes), `out` (3) and `jmp` (5): anything else would be the middle of
    // an instruction, or an OUT that will be done again.
    let asm = Asm::at(CODE);
    let mut machine = TestVm::run(asm.out8(0x1234, 7).jump(CODE));
    let boundaries = [0, 5, 7, 8].map(|offset| u64::from(CODE) + offset);
    for _ in 0..200 {
        let state = machine.pause()[0];
        let rip = state.registers.rip;
        assert!(boundaries.contains(&rip), "{rip:#x}");
        let again = machine.vm.state(0).unwrap();
        assert_eq!(again.registers, state.registers, "looking at a vCPU changes it");
        machine.vm.resume();
        // A pause right away may find the vCPU where it was.
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn reading_a_running_vcpu_does_not_stop_it() {
    let machine = spinning();
    let first = machine.vm.tsc(0).unwrap();
    machine.wait_beyond(COUNTER, machine.word(COUNTER) + 1000);
    let second = machine.vm.tsc(0).unwrap();
    assert!(second > first, "{second} is not after {first}");
    let count = machine.word(COUNTER);
    machine.wait_beyond(COUNTER, count);
}

#[test]
fn spinning_halted_and_unstarted_vcpus_have_different_states() {
    let mut machine = TestVm::boot(2, &PvhImage::from_code(&Asm::at(CODE).spin(COUNTER).code()));
    machine.wait_beyond(COUNTER, 0);
    machine.pause();
    let states = machine.vm.states(&[1, 0, 7]);
    let [Ok(unstarted), Ok(spinning), Err(VcpuError::NoSuchVcpu(7))] = &states[..] else {
        panic!("{states:?}");
    };
    assert_eq!((unstarted.cpu, unstarted.mp_state), (1, MpState::Uninitialized));
    assert_eq!((spinning.cpu, spinning.mp_state), (0, MpState::Running));

    let mut halted = TestVm::run(Asm::at(CODE).out8(POST, 1).halt_for_good());
    halted.wait_for_post(1);
    std::thread::sleep(Duration::from_millis(50));
    halted.pause();
    let state = halted.vm.state(0).unwrap();
    assert_eq!(state.mp_state, MpState::Halted);
    assert_eq!(state.registers.rflags & 1 << 9, 0, "interrupts are off");
}

#[test]
fn run_time_grows_only_while_a_vcpu_runs() {
    let mut machine = spinning();
    let before = machine.vm.run_time(0);
    machine.wait_beyond(COUNTER, machine.word(COUNTER) + 100_000);
    machine.pause();
    let after = machine.vm.run_time(0);
    assert!(after > before, "{before:?} to {after:?}");
    std::thread::sleep(Duration::from_millis(20));
    let later = machine.vm.run_time(0) - after;
    assert!(later < Duration::from_millis(5), "{later:?} while paused");
    assert_eq!(machine.vm.run_time(9), Duration::ZERO);
}

#[test]
fn an_undisturbed_spinning_guest_causes_no_exits() {
    let machine = spinning();
    let before = machine.vm.exit_counts();
    let _ = (machine.word(COUNTER), machine.vm.run_time(0));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(machine.vm.exit_counts(), before);
}

#[test]
fn eight_spinning_vcpus_stop_together() {
    let mut machine = all_spinning(8);
    machine.pause();
    let cpus: Vec<u32> = (0..8).collect();
    for state in machine.vm.states(&cpus) {
        assert_eq!(state.unwrap().mp_state, MpState::Running);
    }
}

#[test]
fn eight_spinning_vcpus_shut_down_within_the_deadline() {
    all_spinning(8).vm.shutdown(LONG).unwrap();
}

#[test]
fn dropping_a_vm_ends_its_threads() {
    let threads = || {
        std::fs::read_dir("/proc/self/task").unwrap().filter(|entry| {
            let comm = entry.as_ref().unwrap().path().join("comm");
            std::fs::read_to_string(comm).is_ok_and(|name| name.trim() == "vcpu61")
        })
    };
    let machine = TestVm::boot(62, &PvhImage::from_code(&Asm::at(CODE).spin(COUNTER).code()));
    let until = Instant::now() + LONG;
    while threads().count() == 0 {
        assert!(Instant::now() < until, "vcpu61's thread never got its name");
    }
    drop(machine);
    assert_eq!(threads().count(), 0);
}

#[test]
fn a_vcpu_in_a_blocked_console_is_reported_and_stops_later() {
    use std::io::Write;
    use std::sync::mpsc;
    struct Blocked {
        reached: mpsc::Sender<()>,
        gate: mpsc::Receiver<()>,
    }
    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.reached.send(());
            let _ = self.gate.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (reached, is_blocked) = mpsc::channel();
    let (unblock, gate) = mpsc::channel::<()>();
    let image = PvhImage::from_code(&Asm::at(CODE).out8(COM1, b'x').spin(COUNTER).code());
    let mut machine =
        TestVm::boot_with(1, &image, None, false, Box::new(Blocked { reached, gate }));
    is_blocked.recv_timeout(LONG).expect("the guest should have printed by now");
    let late = machine.vm.pause(Duration::from_millis(100)).pop().unwrap().unwrap_err();
    assert!(matches!(late, VcpuError::NoAnswer { cpu: 0, .. }), "{late}");
    drop(unblock);
    machine.pause();
    assert_eq!(machine.output(), "");
}

#[test]
fn a_paused_vcpu_can_be_stepped_an_instruction_at_a_time() {
    // nop, nop, and a jump back over both.
    let asm = Asm::at(CODE).out8(POST, 1);
    let mut machine = TestVm::run(asm.raw(&[0x90, 0x90, 0xeb, 0xfc]));
    machine.wait_for_post(1);
    std::thread::sleep(Duration::from_millis(10));
    let mut rip = machine.pause()[0].registers.rip;
    for _ in 0..30 {
        let next = machine.vm.step(0).unwrap().registers.rip;
        // mov edx (5), mov al (2), out (1), nop, nop, jmp
        let after = [(8, 9), (9, 10), (10, 8)]
            .map(|(at, then)| (u64::from(CODE) + at, u64::from(CODE) + then));
        assert!(after.contains(&(rip, next)), "{rip:#x} to {next:#x}");
        rip = next;
    }
    machine.vm.resume();
    std::thread::sleep(Duration::from_millis(10));
    machine.pause();
}
