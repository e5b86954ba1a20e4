//! The possible CPUs, by number, and the APIC ID of each.
//!
//! Owns the numbers; refuses to own which CPUs are online and how they are started (`smp`, which numbers
//! them at boot). Read by senders of interrupts, by `boot.S`, and by the host.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::layout::MAX_CPUS;

/// APIC IDs by CPU number. `ap_start` in boot.S finds its CPU's number here.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "named by assembly, and from outside")]
static cpu_to_apicid: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(u32::MAX) }; MAX_CPUS];

/// Number of possible CPUs, which are numbered from 0.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "named by assembly, and from outside")]
static nr_cpu_ids: AtomicU32 = AtomicU32::new(1);

/// Returns the number of possible CPUs.
pub fn possible_cpus() -> usize {
    nr_cpu_ids.load(Relaxed) as usize
}

/// Returns the APIC ID of a possible CPU.
pub fn apic_id(cpu: usize) -> u32 {
    cpu_to_apicid[cpu].load(Relaxed)
}

/// Numbering of the possible CPUs, at boot.
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

    /// Gives the next number to the CPU with this APIC ID. At most [`MAX_CPUS`] CPUs may be numbered.
    pub fn add(&mut self, apic_id: u32) {
        cpu_to_apicid[self.count].store(apic_id, Relaxed);
        self.count += 1;
    }

    /// Returns the number of CPUs so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Publishes the numbering as the set of possible CPUs; returns their number.
    pub fn publish(self) -> usize {
        nr_cpu_ids.store(self.count as u32, Relaxed);
        self.count
    }
}
