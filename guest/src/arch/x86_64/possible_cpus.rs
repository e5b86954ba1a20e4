//! The CPUs that are possible, by number, and the APIC ID of each.
//!
//! Owns the numbers; refuses to own which CPUs run and how they are started (`smp`, which numbers
//! them at boot). Read by whoever sends an interrupt to a CPU, by `boot.S` and from outside.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::layout::MAX_CPUS;

/// APIC IDs by CPU number; `ap_start` in boot.S looks its own up.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "named by assembly, and from outside")]
static cpu_to_apicid: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(u32::MAX) }; MAX_CPUS];

/// How many CPUs are possible: they are numbered from 0.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "named by assembly, and from outside")]
static nr_cpu_ids: AtomicU32 = AtomicU32::new(1);

/// How many CPUs there can be.
pub fn possible_cpus() -> usize {
    nr_cpu_ids.load(Relaxed) as usize
}

/// The APIC ID of a possible CPU.
pub fn apic_id(cpu: usize) -> u32 {
    cpu_to_apicid[cpu].load(Relaxed)
}

/// CPUs that are being numbered, at boot.
pub struct Numbered {
    count: usize,
}

impl Numbered {
    /// Gives number 0 to the CPU that boots.
    pub fn boot_cpu(apic_id: u32) -> Self {
        let mut numbered = Self { count: 0 };
        numbered.add(apic_id);
        numbered
    }

    /// Gives the next number to the CPU with that APIC ID. There are at most [`MAX_CPUS`].
    pub fn add(&mut self, apic_id: u32) {
        cpu_to_apicid[self.count].store(apic_id, Relaxed);
        self.count += 1;
    }

    /// The number of CPUs so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Makes those numbered so far all that there are; returns how many.
    pub fn publish(self) -> usize {
        nr_cpu_ids.store(self.count as u32, Relaxed);
        self.count
    }
}
