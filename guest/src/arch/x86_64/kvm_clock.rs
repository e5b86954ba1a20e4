//! KVM's paravirtual clock: the frequency of the time-stamp counter without measuring it, and a
//! flag that the host sets after it has stopped the CPU (Linux,
//! `Documentation/virt/kvm/x86/msr.rst`, MSR_KVM_SYSTEM_TIME_NEW).

use core::sync::atomic::{AtomicI8, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::instructions::{cpuid, write_msr};
use super::percpu::{percpu, physical_address};

const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
const FEATURE_CLOCKSOURCE2: u32 = 1 << 3;

/// `struct pvclock_vcpu_time_info`: the host writes it.
#[repr(C, align(32))]
pub struct VcpuTimeInfo {
    version: AtomicU32,
    padding: AtomicU32,
    tsc_timestamp: AtomicU64,
    system_time: AtomicU64,
    tsc_to_system_mul: AtomicU32,
    tsc_shift: AtomicI8,
    flags: AtomicU8,
}

percpu! {
    /// Structure that KVM writes this CPU's clock parameters to.
    pub static kvm_clock: VcpuTimeInfo = VcpuTimeInfo {
        version: AtomicU32::new(0),
        padding: AtomicU32::new(0),
        tsc_timestamp: AtomicU64::new(0),
        system_time: AtomicU64::new(0),
        tsc_to_system_mul: AtomicU32::new(0),
        tsc_shift: AtomicI8::new(0),
        flags: AtomicU8::new(0),
    };
}

/// Turns the clock on for this CPU if the hypervisor is KVM.
pub fn enable() {
    let hypervisor = cpuid(0x4000_0000);
    let is_kvm = [hypervisor.ebx, hypervisor.ecx, hypervisor.edx]
        == [*b"KVMK", *b"VMKV", *b"M\0\0\0"].map(u32::from_le_bytes);
    if is_kvm && cpuid(0x4000_0001).eax & FEATURE_CLOCKSOURCE2 != 0 {
        const ENABLE: u64 = 1;
        let address = physical_address(kvm_clock.this());
        // SAFETY: the feature bit says that the register exists; the host writes into the
        // structure of atomics only, which lives forever.
        unsafe { write_msr(MSR_KVM_SYSTEM_TIME_NEW, address | ENABLE) };
    }
}

/// Returns the frequency of the time-stamp counter in kHz; `None` while this CPU does not have the clock.
pub fn tsc_khz() -> Option<u64> {
    let clock = kvm_clock.this();
    let multiplier = u64::from(clock.tsc_to_system_mul.load(Relaxed));
    let frequency = (1_000_000u64 << 32).checked_div(multiplier)?;
    let shift = clock.tsc_shift.load(Relaxed);
    Some(if shift < 0 { frequency << -shift } else { frequency >> shift })
}
