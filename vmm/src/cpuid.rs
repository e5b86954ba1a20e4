//! CPUID tables of the vCPUs.
//!
//! Owns the changes to KVM_GET_SUPPORTED_CPUID's table: identity, topology, timer and timing;
//! refuses to own the ioctls around it. Called by `vm` and `vcpu::setup`. Leaves are described in
//! the Intel SDM 2A, "CPUID", and the AMD APM 3, appendix E.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use crate::kvm::KvmError;

/// Frequency of the local APIC's timer: KVM's is fixed at 1 ns.
const APIC_BUS_KHZ: u32 = 1_000_000;

/// The first hypervisor leaf (CPUID 0x40000000).
const HYPERVISOR: u32 = 0x4000_0000;

/// The hypervisor leaf with the guest's clock frequencies, as VMware defined it and as QEMU and Linux use
/// it too.
const HYPERVISOR_TIMING: u32 = 0x4000_0010;

/// Guest-physical address bits (CPUID 0x80000008 EAX 7:0); 36 where the leaf is missing.
pub(crate) fn physical_address_bits(supported: &CpuId) -> u32 {
    let leaf = supported.as_slice().iter().find(|entry| entry.function == 0x8000_0008);
    leaf.map_or(36, |entry| entry.eax & 0xff)
}

/// The facts about one vCPU that its table depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    /// The vCPU's APIC id, which is also its index.
    pub(crate) apic_id: u32,
    /// Number of vCPUs of the VM: one package with that many cores of one thread each.
    pub(crate) cpus: u32,
    /// Frequency of the time-stamp counter in kHz (KVM_GET_TSC_KHZ), if KVM knows it.
    pub(crate) tsc_khz: Option<u32>,
    /// True if KVM emulates the APIC timer's TSC-deadline mode (KVM_CAP_TSC_DEADLINE_TIMER).
    pub(crate) tsc_deadline: bool,
}

/// Makes the CPUID table of one vCPU.
pub(crate) fn for_vcpu(supported: &CpuId, identity: Identity) -> Result<CpuId, KvmError> {
    let mut table = supported.as_slice().to_vec();
    for entry in &mut table {
        patch(entry, identity);
    }
    set_topology(&mut table, identity);
    set_timing(&mut table, identity);
    let entries = table.len();
    CpuId::from_entries(&table).map_err(|_| KvmError::TableFull { table: "CPUID", entries })
}

fn patch(entry: &mut kvm_cpuid_entry2, identity: Identity) {
    let Identity { apic_id, cpus, .. } = identity;
    let (core_bits, last_core) = (core_bits(cpus), cpus - 1);
    match entry.function {
        1 => patch_features(entry, identity),
        // Deterministic cache parameters: cores in the package, threads that share the cache.
        4 if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 7;
            let sharing = if level >= 3 { last_core.min(0xfff) } else { 0 };
            entry.eax = entry.eax & 0x3fff | last_core.min(0x3f) << 26 | sharing << 14;
        }
        // AMD: ApicIdSize and NC (cores - 1).
        0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | core_bits << 12 | last_core.min(0xff),
        // AMD: extended APIC id, core id with one thread each, node.
        0x8000_001e => {
            entry.eax = apic_id;
            entry.ebx = apic_id & 0xff;
            entry.ecx = 0;
        }
        _ => {}
    }
}

fn patch_features(entry: &mut kvm_cpuid_entry2, identity: Identity) {
    const X2APIC: u32 = 1 << 21;
    const TSC_DEADLINE: u32 = 1 << 24;
    const IN_HYPERVISOR: u32 = 1 << 31;
    const MULTI_THREADED: u32 = 1 << 28;
    let logical = identity.cpus.next_power_of_two().min(0xff);
    entry.ebx = entry.ebx & 0xffff | (identity.apic_id & 0xff) << 24 | logical << 16;
    entry.ecx |= X2APIC | IN_HYPERVISOR;
    entry.ecx &= !TSC_DEADLINE;
    if identity.tsc_deadline {
        entry.ecx |= TSC_DEADLINE;
    }
    entry.edx &= !MULTI_THREADED;
    if identity.cpus > 1 {
        entry.edx |= MULTI_THREADED;
    }
}

/// Sets the extended topology, leaf 0xb and where KVM has it 0x1f: threads, cores, and an empty level.
fn set_topology(table: &mut Vec<kvm_cpuid_entry2>, identity: Identity) {
    const THREADS: u32 = 1 << 8;
    const CORES: u32 = 2 << 8;
    let Identity { apic_id, cpus, .. } = identity;
    for function in [0xb, 0x1f] {
        let known = table.iter().any(|entry| entry.function == function);
        if !known && function == 0x1f {
            continue;
        }
        table.retain(|entry| entry.function != function);
        let levels = [(0, 1, THREADS), (core_bits(cpus), cpus, CORES), (0, 0, 0)];
        for (index, (shift, count, kind)) in (0u32..).zip(levels) {
            table.push(kvm_cpuid_entry2 {
                function,
                index,
                flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                eax: shift,
                ebx: count,
                ecx: index | kind,
                edx: apic_id,
                ..Default::default()
            });
        }
    }
    if let Some(highest) = table.iter_mut().find(|entry| entry.function == 0) {
        highest.eax = highest.eax.max(0xb);
    }
}

/// Adds the timing leaf, which spares a guest the calibration of its clocks. KVM's paravirtual leaves,
/// which announce kvmclock, stay.
fn set_timing(table: &mut Vec<kvm_cpuid_entry2>, identity: Identity) {
    let Some(tsc_khz) = identity.tsc_khz else {
        return;
    };
    let Some(first) = table.iter_mut().find(|entry| entry.function == HYPERVISOR) else {
        return;
    };
    first.eax = first.eax.max(HYPERVISOR_TIMING);
    table.retain(|entry| entry.function != HYPERVISOR_TIMING);
    table.push(kvm_cpuid_entry2 {
        function: HYPERVISOR_TIMING,
        eax: tsc_khz,
        ebx: APIC_BUS_KHZ,
        ..Default::default()
    });
}

/// Returns the number of bits of an APIC id that number the core.
fn core_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, eax: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, eax, ..Default::default() }
    }

    fn table_for(apic_id: u32, cpus: u32) -> Vec<kvm_cpuid_entry2> {
        let supported =
            CpuId::from_entries(&[leaf(0, 7), leaf(1, 0), leaf(HYPERVISOR, 0x4000_0001)]).unwrap();
        let tsc_khz = Some(2_500_000);
        let identity = Identity { apic_id, cpus, tsc_khz, tsc_deadline: true };
        for_vcpu(&supported, identity).unwrap().as_slice().to_vec()
    }

    fn find(table: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *table.iter().find(|e| e.function == function && e.index == index).unwrap()
    }

    #[test]
    fn the_third_of_six_cpus_has_its_id_and_topology() {
        let table = table_for(2, 6);
        assert_eq!(find(&table, 1, 0).ebx, 2 << 24 | 8 << 16);
        let threads = find(&table, 0xb, 0);
        assert_eq!((threads.eax, threads.ebx, threads.ecx, threads.edx), (0, 1, 0x100, 2));
        let cores = find(&table, 0xb, 1);
        assert_eq!((cores.eax, cores.ebx, cores.ecx, cores.edx), (3, 6, 0x201, 2));
        assert_eq!(find(&table, 0, 0).eax, 0xb);
    }

    #[test]
    fn an_x2apic_id_is_not_cut_in_the_topology_leaf() {
        let table = table_for(300, 512);
        assert_eq!(find(&table, 0xb, 1).edx, 300);
        assert_eq!(find(&table, 0xb, 1).eax, 9);
    }

    #[test]
    fn timer_x2apic_and_hypervisor_bits_are_set() {
        let ecx = find(&table_for(0, 1), 1, 0).ecx;
        assert_eq!(ecx & (1 << 21 | 1 << 24 | 1 << 31), 1 << 21 | 1 << 24 | 1 << 31);
    }

    #[test]
    fn the_timing_leaf_is_present_and_announced() {
        let table = table_for(0, 1);
        assert_eq!(find(&table, HYPERVISOR, 0).eax, HYPERVISOR_TIMING);
        let timing = find(&table, HYPERVISOR_TIMING, 0);
        assert_eq!((timing.eax, timing.ebx), (2_500_000, 1_000_000));
    }
}
