//! A vCPU's state before its first instruction.
//!
//! Owns CPUID and the boot CPU's registers; refuses to own the choice of entry point (`boot`).
//! Called by `vm` for each vCPU. Other CPUs keep KVM's reset state and wait for their start-up IPI.
//!
//! Registers are as the PVH boot protocol asks (Xen, `docs/misc/pvh.pandoc`): 32-bit protected mode
//! without paging, flat segments, EBX at the start info. The GDT is the guest's to load.

use kvm_bindings::{kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Address, GuestAddress};

use crate::cpuid::{self, Identity};
use crate::kvm::KvmError;
use crate::layout;
use kvm_bindings::CpuId;

/// CR0: protection enable, and the extension type bit that is always one.
const CR0_PE_ET: u64 = 1 | 1 << 4;

/// RFLAGS with nothing set but bit 1, which always is.
const RFLAGS_RESERVED: u64 = 2;

/// Segment types (Intel SDM 3A, 3.4.5.1 and 3.5).
const CODE_EXECUTE_READ_ACCESSED: u8 = 0xb;
const DATA_READ_WRITE_ACCESSED: u8 = 0x3;
const TSS_32_BUSY: u8 = 0xb;

/// Prepares a vCPU. The boot CPU, which is number 0, starts at the guest-physical address `entry`.
pub(crate) fn set_up(
    vcpu: &VcpuFd,
    supported: &CpuId,
    identity: Identity,
    entry: GuestAddress,
) -> Result<(), KvmError> {
    let table = cpuid::for_vcpu(supported, identity)?;
    vcpu.set_cpuid2(&table).map_err(KvmError::ioctl("KVM_SET_CPUID2"))?;
    if identity.apic_id == 0 {
        set_special_registers(vcpu)?;
        set_general_registers(vcpu, entry)?;
    }
    Ok(())
}

fn set_special_registers(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let mut special = vcpu.get_sregs().map_err(KvmError::ioctl("KVM_GET_SREGS"))?;
    let data = segment(0x18, DATA_READ_WRITE_ACCESSED);
    special.cs = segment(0x10, CODE_EXECUTE_READ_ACCESSED);
    special.ds = data;
    special.es = data;
    special.fs = data;
    special.gs = data;
    special.ss = data;
    special.tr = kvm_segment { type_: TSS_32_BUSY, limit: 0x67, present: 1, ..Default::default() };
    special.cr0 = CR0_PE_ET;
    special.cr4 = 0;
    special.efer = 0;
    vcpu.set_sregs(&special).map_err(KvmError::ioctl("KVM_SET_SREGS"))
}

fn set_general_registers(vcpu: &VcpuFd, entry: GuestAddress) -> Result<(), KvmError> {
    let general = kvm_regs {
        rip: entry.raw_value(),
        rbx: layout::PVH_START_INFO.raw_value(),
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    };
    vcpu.set_regs(&general).map_err(KvmError::ioctl("KVM_SET_REGS"))
}

/// Makes a flat 32-bit segment: base 0, limit 4 GiB.
fn segment(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..Default::default()
    }
}
