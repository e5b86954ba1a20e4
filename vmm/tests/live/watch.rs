//! Watching a guest from outside, while it runs.

use std::hint::black_box;
use std::io::Write;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nmiscope_machine::MpState;
use nmiscope_vmm::{ThreadState, ThreadTimes, VcpuError, VcpuStatistics};

use crate::support::asm::Asm;
use crate::support::image::PvhImage;
use crate::support::{
    CODE, COM1, COUNTER, LONG, POST, TestVm, all_spinning, counting, spinning, with_nmi_handler,
};

fn times(machine: &TestVm, cpu: u32) -> ThreadTimes {
    machine.vm.host_times(cpu).expect("the host should report thread times")
}

fn statistics(machine: &TestVm) -> VcpuStatistics {
    machine.vm.statistics(0).expect("KVM has kept statistics since Linux 5.14")
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < until, "{what}: still not so");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns the CPU time of the calling thread.
fn own_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn halted() -> TestVm {
    let machine = TestVm::run(Asm::at(CODE).out8(POST, 1).halt_for_good());
    machine.wait_for_post(1);
    machine
}

#[test]
fn a_spinning_vcpu_is_running_and_a_paused_one_sleeps() {
    let mut machine = spinning();
    let before = times(&machine, 0);
    machine.wait_beyond(COUNTER, machine.word(COUNTER) + 100_000);
    let after = times(&machine, 0);
    assert_eq!(after.state, ThreadState::Running);
    assert!(after.run_time > before.run_time, "{before:?} to {after:?}");
    machine.pause();
    wait_until("paused, its thread sleeps", || times(&machine, 0).state == ThreadState::Sleeping);
    // It may have slept for a lock on its way.
    std::thread::sleep(Duration::from_millis(50));
    let paused = times(&machine, 0);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(times(&machine, 0), paused, "a thread that sleeps neither runs nor waits");
}

#[test]
fn a_halted_vcpu_sleeps_and_kvm_says_so() {
    let machine = halted();
    wait_until("halted, its thread sleeps", || times(&machine, 0).state == ThreadState::Sleeping);
    let statistics = statistics(&machine);
    assert_eq!(statistics.halt_exits, Some(1));
    assert_ne!(statistics.blocking, Some(false));
}

#[test]
fn sampling_a_halted_vcpu_leaves_it_halted() {
    let machine = halted();
    wait_until("halted, its thread sleeps", || times(&machine, 0).state == ThreadState::Sleeping);
    let before = statistics(&machine);
    let sample = || machine.vm.sample(&[0], LONG).pop().unwrap().unwrap();
    let first = sample();
    assert_eq!(first.mp_state, MpState::Halted);
    for _ in 0..100 {
        assert_eq!(sample(), first);
    }
    wait_until("halted, its thread sleeps", || times(&machine, 0).state == ThreadState::Sleeping);
    assert_eq!(statistics(&machine), before, "it has not been in the guest for it");
}

#[test]
fn a_sample_of_a_blocked_vcpu_ends_at_its_deadline() {
    struct Blocked(mpsc::Sender<()>, mpsc::Receiver<()>);
    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.send(());
            let _ = self.1.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (reached, is_blocked) = mpsc::channel();
    let (unblock, gate) = mpsc::channel::<()>();
    let image = PvhImage::from_code(&Asm::at(CODE).out8(COM1, b'x').spin(COUNTER).code());
    let machine = TestVm::boot_with(1, &image, None, false, Box::new(Blocked(reached, gate)));
    is_blocked.recv_timeout(LONG).expect("the guest should have printed by now");
    let deadline = Duration::from_millis(20);
    let answers = machine.vm.sample(&[0], deadline);
    let [Err(VcpuError::NoAnswer { cpu: 0, waited })] = answers[..] else { panic!("{answers:?}") };
    assert_eq!(waited, deadline);
    assert_eq!(machine.vm.console_bytes(), 0, "asking does not wait for the writer");
    drop(unblock);
    wait_until("the byte is counted", || machine.vm.console_bytes() == 1);
}

#[test]
fn more_spinning_vcpus_than_cpus_have_a_run_delay() {
    let machine = all_spinning(8);
    let waited = || (0..8).filter_map(|cpu| times(&machine, cpu).run_delay).sum::<Duration>();
    let before = waited();
    // 8 on fewer than 8 CPUs: there is always one that waits.
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 8) {
        wait_until("they wait", || waited() > before + Duration::from_millis(50));
    }
}

#[test]
fn exits_are_counted_by_kvm_too() {
    let asm = Asm::at(CODE);
    let top = asm.here();
    let machine = TestVm::run(asm.in_al(COM1 + 5).inc(COUNTER).jump(top));
    machine.wait_beyond(COUNTER, 10);
    let before = statistics(&machine).exits.unwrap();
    machine.wait_beyond(COUNTER, machine.word(COUNTER) + 1000);
    let after = statistics(&machine).exits.unwrap();
    assert!(after >= before + 1000, "{before} to {after}");
}

#[test]
fn an_nmi_that_is_delivered_is_counted() {
    let image = with_nmi_handler(|asm| asm.spin(COUNTER), counting);
    let mut machine = TestVm::boot(1, &image);
    machine.wait_beyond(COUNTER, 0);
    machine.pause();
    let before = statistics(&machine).nmi_injections.unwrap();
    assert!(machine.vm.run_nmi(&[0], LONG)[0].as_ref().unwrap().finished());
    // More than one where its delivery had to wait for a page, as with shadow page tables.
    assert!(statistics(&machine).nmi_injections.unwrap() > before);
}

#[test]
fn watching_causes_no_kvm_run_exits() {
    let machine = spinning();
    let before = machine.vm.exit_counts();
    for _ in 0..1000 {
        times(&machine, 0);
        statistics(&machine);
        machine.vm.console_bytes();
    }
    assert_eq!(machine.vm.exit_counts(), before);
}

#[test]
fn watching_a_vcpu_that_does_not_exist_fails() {
    let machine = halted();
    assert!(matches!(machine.vm.host_times(1), Err(VcpuError::NoSuchVcpu(1))));
    assert_eq!(machine.vm.statistics(1), None);
}

#[test]
fn console_bytes_count_text_and_not_settings() {
    // A word to the divisor latch (bit 7 of line control), then two bytes of text.
    let asm = Asm::at(CODE).out8(COM1 + 3, 0x83).out8(COM1, 1).out8(COM1 + 1, 0);
    let asm = asm.out8(COM1 + 3, 3).out8(COM1, b'o').out8(COM1, b'k').out8(POST, 1);
    let machine = TestVm::boot(1, &PvhImage::from_code(&asm.halt_for_good().code()));
    machine.wait_for_post(1);
    assert_eq!(machine.output(), "ok");
    assert_eq!(machine.vm.console_bytes(), 2);
}

/// Prints what watching costs: `cargo test --release -- --ignored --nocapture watching_costs`.
#[test]
#[ignore = "a measurement"]
fn watching_costs() {
    let guests =
        [("1 spinning", spinning()), ("1 halted", halted()), ("8 spinning", all_spinning(8))];
    for (guest, machine) in guests {
        let all: Vec<u32> = (0..machine.vm.cpus()).collect();
        let each = |look: &dyn Fn(u32)| all.iter().for_each(|cpu| look(*cpu));
        measure(guest, "run_time", || each(&|cpu| _ = black_box(machine.vm.run_time(cpu))));
        measure(guest, "host_times", || each(&|cpu| _ = black_box(times(&machine, cpu))));
        measure(guest, "statistics", || each(&|cpu| _ = black_box(machine.vm.statistics(cpu))));
        measure(guest, "console_bytes", || _ = black_box(machine.vm.console_bytes()));
        measure(guest, "sample", || _ = black_box(machine.vm.sample(&all, LONG)));
    }
}

fn measure(guest: &str, name: &str, look: impl Fn()) {
    const ROUNDS: u32 = 300;
    look();
    let (started, own) = (Instant::now(), own_time());
    (0..ROUNDS).for_each(|_| look());
    let (wall, own) = (started.elapsed() / ROUNDS, (own_time() - own) / ROUNDS);
    eprintln!("{guest}: {name} of all: {wall:?} of wall time, {own:?} of the caller's CPU time");
}
