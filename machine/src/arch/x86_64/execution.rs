//! Execution states of vCPUs, from their registers and their hypervisor's multiprocessing state.
//!
//! Owns the states' names and the rules that distinguish them; refuses to own the guest kernel's view of
//! the same CPU, which may know better: a CPU that the kernel took offline looks halted from here. Called
//! through `VcpuState`.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::registers::Registers;

/// The multiprocessing state of a vCPU: whether it executes, sleeps or was never started
/// (KVM_GET_MP_STATE; Linux, Documentation/virt/kvm/api.rst, 4.38).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MpState {
    /// The vCPU executes instructions.
    Running,
    /// The vCPU executed HLT and waits for an interrupt.
    Halted,
    /// The vCPU is an application processor that was never started.
    Uninitialized,
    /// The vCPU got an INIT and waits for its start-up IPI.
    InitReceived,
    /// The vCPU got its start-up IPI and has not run since.
    SipiReceived,
    /// A state that x86 does not have, by KVM's number for it.
    Other(u32),
    /// The vCPU executes or is halted: its source does not record which, as QEMU's dumps do not.
    Unrecorded,
    /// The source does not record the state, and the byte before RIP is HLT: the vCPU is most likely
    /// halted. A vCPU that an interrupt has just woken looks the same for one instruction.
    BehindHlt,
}

impl MpState {
    /// False for a CPU that waits for INIT or a start-up IPI, and so takes no NMI.
    pub fn is_started(self) -> bool {
        !matches!(self, Self::Uninitialized | Self::InitReceived)
    }
}

/// The execution state of a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Execution {
    /// Long mode at privilege level 0 to 2, or an unrecorded mode at such a level.
    Kernel,
    /// Long mode at privilege level 3: a program. The page tables may be the ones that Linux keeps for
    /// programs; see `PageTables::kernel_half`.
    User,
    /// Real mode: a boot loader, or an application processor in its trampoline.
    RealMode,
    /// Protected mode outside long mode: a 32-bit kernel, its programs, or a kernel on its way to
    /// long mode.
    ProtectedMode,
    /// System-management mode, or code in the firmware's ROM before paging is on.
    Firmware,
    /// An application processor that was never started.
    NotStarted,
    /// INIT received, no start-up IPI yet.
    InInit,
    /// Reset after it had been started, and no instruction executed since; on AMD hosts KVM does that to a
    /// vCPU that shut down.
    Offline,
    /// Halted: the vCPU executed HLT and waits for an interrupt.
    Halted,
    /// A multiprocessing state that x86 does not have, by its number.
    Unknown(u32),
}

/// Linear addresses of the firmware's ROM on a PC: the last 128 KiB of the first megabyte, and the last 16
/// MiB below 4 GiB.
const ROM: [Range<u64>; 2] = [0xe_0000..0x10_0000, 0xff00_0000..0x1_0000_0000];

impl Execution {
    /// Derives the execution state of a vCPU from its registers. `smm` is true in system-management mode,
    /// which no register shows.
    pub fn new(mp_state: MpState, registers: &Registers, smm: bool) -> Self {
        match mp_state {
            MpState::Uninitialized => Self::NotStarted,
            MpState::InitReceived => Self::InInit,
            MpState::Halted | MpState::BehindHlt => Self::Halted,
            MpState::Other(number) => Self::Unknown(number),
            MpState::Running | MpState::SipiReceived | MpState::Unrecorded => {
                Self::from_running(registers, smm)
            }
        }
    }

    fn from_running(registers: &Registers, smm: bool) -> Self {
        if registers.are_reset() {
            Self::Offline
        } else if smm {
            Self::Firmware
        } else {
            Self::from_mode(registers)
        }
    }

    fn from_mode(registers: &Registers) -> Self {
        if registers.is_long_mode() || registers.control_unrecorded {
            return if registers.cpl == 3 { Self::User } else { Self::Kernel };
        }
        let linear = registers.cs.base.wrapping_add(registers.rip);
        if !registers.is_paging() && ROM.iter().any(|rom| rom.contains(&linear)) {
            Self::Firmware
        } else if registers.is_protected() {
            Self::ProtectedMode
        } else {
            Self::RealMode
        }
    }

    /// True where RIP is a position in the guest's code: not before the vCPU was started, nor after it was
    /// reset.
    pub fn has_position(self) -> bool {
        !matches!(self, Self::NotStarted | Self::InInit | Self::Offline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::x86_64::Segment;

    /// CR0 of Linux on x86-64: PG, WP, NE, ET, MP and PE.
    const PAGING: u64 = 0x8005_0033;
    /// EFER with SCE, LME, LMA and NXE.
    const LONG: u64 = 0xd01;

    fn at(base: u64, rip: u64) -> Registers {
        Registers { rip, cs: Segment { selector: 0, base }, ..Registers::default() }
    }

    #[test]
    fn control_registers_and_privilege_determine_the_mode() {
        let long = Registers { cr0: PAGING, efer: LONG, ..at(0, 0xffff_ffff_8100_0000) };
        let program = Registers { cpl: 3, ..long };
        let kernel_of_32_bits = Registers { cr0: PAGING, ..at(0, 0xc100_0000) };
        let entry = Registers { cr0: 0x11, ..at(0, 0x10_0000) };
        let rom_of_32_bits = Registers { cr0: 0x11, ..at(0, 0xffff_0000) };
        let table = [
            (long, Execution::Kernel),
            (program, Execution::User),
            (kernel_of_32_bits, Execution::ProtectedMode),
            (entry, Execution::ProtectedMode),
            (at(0x8000, 0), Execution::RealMode),
            (at(0xf_0000, 0x1234), Execution::Firmware),
            (rom_of_32_bits, Execution::Firmware),
            // The reset vector, before its first instruction (SDM volume 3, table 10-1).
            (at(0xffff_0000, 0xfff0), Execution::Offline),
        ];
        for (registers, expected) in table {
            assert_eq!(Execution::new(MpState::Running, &registers, false), expected);
        }
        assert_eq!(Execution::new(MpState::Running, &long, true), Execution::Firmware);
    }

    #[test]
    fn a_vcpu_that_executes_nothing_has_a_state_for_each_reason() {
        let reset = at(0xffff_0000, 0xfff0);
        let table = [
            (MpState::Uninitialized, Execution::NotStarted, false),
            (MpState::InitReceived, Execution::InInit, false),
            (MpState::SipiReceived, Execution::Offline, false),
            (MpState::Halted, Execution::Halted, true),
            (MpState::BehindHlt, Execution::Halted, true),
            (MpState::Unrecorded, Execution::Offline, false),
            (MpState::Other(7), Execution::Unknown(7), true),
        ];
        for (mp_state, expected, has_position) in table {
            let found = Execution::new(mp_state, &reset, false);
            assert_eq!((found, found.has_position()), (expected, has_position));
        }
    }
}
