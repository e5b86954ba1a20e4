//! Measurements of a visit, printed only: the pause compared with a bare stop, and reads of memory. No
//! time is asserted.

use std::time::{Duration, Instant};

use nmiscope_machine::{PhysicalAddress, PhysicalMemory as _};
use nmiscope_qemu::{GuestMemory, Qemu, ReleaseOutcome};

use crate::common::{PATIENCE, guardian};
use crate::vm::Vm;

const VISITS: usize = 21;
const READS: u64 = 1000;
/// Guest-physical address in the heap of the bundled guest.
const TOUCHED: u64 = 2 << 20;

/// Measures the pause of only `stop`, `info registers -a` and `cont`.
fn bare_pause(qemu: &mut Qemu) -> Duration {
    let mut qmp = qemu.qmp();
    let begin = Instant::now();
    qmp.execute("stop", PATIENCE).expect("stop");
    qmp.execute_hmp("info registers -a", PATIENCE).expect("registers");
    qmp.execute("cont", PATIENCE).expect("cont");
    begin.elapsed()
}

/// Measures the pause of a visit, and the time of the guardian and the queries before it.
fn visit(qemu: &mut Qemu) -> (Duration, Duration) {
    let begin = Instant::now();
    let mut stopped = qemu.stop(guardian()).expect("a stopped VM");
    let before = begin.elapsed() - stopped.elapsed();
    stopped.qemu().states().expect("registers");
    let ReleaseOutcome::Resumed { pause, .. } = stopped.release() else { panic!("not resumed") };
    (pause, before)
}

/// Measures the time to read 1 MiB, and a word.
fn read(memory: &GuestMemory) -> (Duration, Duration) {
    let mut bytes = vec![0; 1 << 20];
    let begin = Instant::now();
    memory.read(PhysicalAddress(TOUCHED), &mut bytes).expect("memory");
    let megabyte = begin.elapsed();
    let begin = Instant::now();
    for page in 0..READS {
        memory.read_u64(PhysicalAddress(TOUCHED + page * 4096)).expect("memory");
    }
    (megabyte, begin.elapsed() / READS as u32)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
#[ignore = "needs qemu-system-x86_64 and /dev/kvm; prints times"]
fn print_times_of_a_visit() {
    for (accelerator, size) in [("tcg", "64M"), ("tcg", "8G"), ("kvm", "64M"), ("kvm", "8G")] {
        let machine = ["-M", "q35", "-m", size, "-smp", "2", "-cpu", "max", "-accel", accelerator];
        let vm = Vm::guest("idle", &machine);
        let mut qemu = vm.open();
        let begin = Instant::now();
        let memory = qemu.memory().expect("memory");
        let map = begin.elapsed();
        let bare = median((0..VISITS).map(|_| bare_pause(&mut qemu)).collect());
        let (pauses, before) = (0..VISITS).map(|_| visit(&mut qemu)).unzip();
        let (megabytes, words) = (0..VISITS).map(|_| read(&memory)).unzip();
        println!(
            "{accelerator} {size}: bare pause {bare:?}, pause {:?}, before it {:?}, map {map:?}, \
             1 MiB {:?}, a word {:?}",
            median(pauses),
            median(before),
            median(megabytes),
            median(words),
        );
    }
}
