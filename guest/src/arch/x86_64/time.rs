//! Time: nanoseconds since boot from the time-stamp counter, and the tick.
//!
//! Frequencies come from the hypervisor if it reports them (CPUID leaf 0x40000010), else from KVM's
//! clock; they are measured only on machines that have neither.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::instructions::{cpuid, in_byte, out_byte, read_tsc};
use super::{apic, kvm_clock};
use crate::pr_warn;

/// Conversion from the time-stamp counter to time. The host reads it too, to convert the guest's times.
pub struct Clock {
    /// Value of the time-stamp counter at time 0.
    tsc_base: AtomicU64,
    /// Nanoseconds per cycle of the counter, times 2^32.
    ns_per_tsc_shifted: AtomicU64,
}

/// The kernel's clock. All its bytes are zero until `init`.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "found by name from outside")]
static sched_clock: Clock =
    Clock { tsc_base: AtomicU64::new(0), ns_per_tsc_shifted: AtomicU64::new(0) };

/// Bus clock of the local APICs in kHz.
static APIC_KHZ: AtomicU64 = AtomicU64::new(0);

/// Returns the time in nanoseconds since boot.
pub fn clock_ns() -> u64 {
    let elapsed = read_tsc().wrapping_sub(sched_clock.tsc_base.load(Relaxed));
    let scaled = u128::from(elapsed) * u128::from(sched_clock.ns_per_tsc_shifted.load(Relaxed));
    (scaled >> 32) as u64
}

/// Determines the frequencies and starts the clock. Called on the boot CPU, with its APIC and KVM clock
/// on.
pub fn init() {
    let (tsc_khz, apic_khz) = stated_frequencies().unwrap_or_else(|| {
        let tsc_khz = kvm_clock::tsc_khz().unwrap_or_else(measure_tsc_khz);
        (tsc_khz, measure_apic_khz(tsc_khz))
    });
    sched_clock.ns_per_tsc_shifted.store((1_000_000 << 32) / tsc_khz.max(1), Relaxed);
    sched_clock.tsc_base.store(read_tsc(), Relaxed);
    APIC_KHZ.store(apic_khz, Relaxed);
}

/// Returns the frequencies of counter and APIC bus in kHz from EAX and EBX of CPUID leaf 0x40000010, which
/// VMware defined and other hypervisors have too; `None` without that leaf.
fn stated_frequencies() -> Option<(u64, u64)> {
    const LEAF: u32 = 0x4000_0010;
    let hypervisor_present = cpuid(1).ecx & 1 << 31 != 0;
    if !hypervisor_present || cpuid(0x4000_0000).eax < LEAF {
        return None;
    }
    let leaf = cpuid(LEAF);
    (leaf.eax != 0 && leaf.ebx != 0).then_some((u64::from(leaf.eax), u64::from(leaf.ebx)))
}

/// Measures the counter's frequency in kHz against the 8254's channel 0, for some 10 ms. Not against
/// channel 2, which Linux prefers: its gate and output are in port 0x61, which some machines with that
/// timer lack.
fn measure_tsc_khz() -> u64 {
    const PIT_KHZ: u64 = 1_193;
    const COUNTS: u16 = 12_000;
    const MAX_POLLS: u32 = 1_000_000;
    const ASSUMED_KHZ: u64 = 1_000_000;
    out_byte(0x43, 0x30); // mode 0: down from 65535, once
    out_byte(0x40, 0xff);
    out_byte(0x40, 0xff);
    let counted = || {
        out_byte(0x43, 0); // latch
        u16::MAX - u16::from_le_bytes([in_byte(0x40), in_byte(0x40)])
    };
    let (first, start) = (counted(), read_tsc());
    for _ in 0..MAX_POLLS {
        let (now, tsc) = (counted(), read_tsc());
        if now.wrapping_sub(first) >= COUNTS {
            return (tsc - start) * PIT_KHZ / u64::from(now.wrapping_sub(first));
        }
    }
    pr_warn!("no timer to measure the time-stamp counter with: assuming 1 GHz");
    ASSUMED_KHZ
}

/// Measures the APIC bus's frequency in kHz against the time-stamp counter, for 1 ms.
fn measure_apic_khz(tsc_khz: u64) -> u64 {
    // Longer if the host runs another thread meanwhile.
    let mut elapsed = 0;
    let count = apic::count_while(|| {
        let start = read_tsc();
        while elapsed < tsc_khz {
            core::hint::spin_loop();
            elapsed = read_tsc() - start;
        }
    });
    u64::from(count) * apic::TIMER_DIVISOR * tsc_khz / elapsed.max(1)
}

/// Starts this CPU's tick. The more CPUs, the longer the interval: a host that emulates many CPUs has few
/// cores, which should not spend all their time on ticks.
pub fn start_tick(cpus: usize) {
    const SHORTEST_MS: u64 = 10;
    tick_every(SHORTEST_MS.max(cpus as u64 / 2) * 1_000_000);
}

/// Sets the interval of this CPU's tick in nanoseconds, beginning now.
pub fn next_tick_in(nanoseconds: u64) {
    tick_every(nanoseconds);
}

/// Sets this CPU's next tick in nanoseconds. No other follows it.
pub fn one_tick_in(nanoseconds: u64) {
    apic::start_one_shot_timer(timer_count(nanoseconds));
}

fn tick_every(nanoseconds: u64) {
    apic::start_periodic_timer(timer_count(nanoseconds));
}

/// Returns the number of cycles of the timer's clock, at least one.
fn timer_count(nanoseconds: u64) -> u32 {
    let count = APIC_KHZ.load(Relaxed) * (nanoseconds / 1_000) / (1_000 * apic::TIMER_DIVISOR);
    u32::try_from(count).unwrap_or(u32::MAX).max(1)
}

/// Stops this CPU's tick until it is started again.
pub fn stop_tick() {
    apic::stop_timer();
}
