//! The reason for which a VM ended.
//!
//! Owns the reasons and their texts; refuses to own how a hypervisor notices them. Part of an NMI's result,
//! and so stored in cores.

use std::fmt;

use serde::{Deserialize, Serialize};

/// KVM_INTERNAL_ERROR_* (Linux, include/uapi/linux/kvm.h).
const KVM_INTERNAL_ERROR_EMULATION: u32 = 1;
const KVM_INTERNAL_ERROR_DELIVERY_EV: u32 = 3;

/// The reason for which a VM ended. None of these is an error of the VMM.
///
/// On AMD hosts KVM resets a vCPU that shut down, so the registers after a `TripleFault` are those of a
/// reset CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Outcome {
    /// The guest wrote to the debug-exit port.
    DebugExit {
        /// The vCPU that wrote to the port.
        cpu: u32,
        /// The value that was written, zero-extended.
        code: u32,
    },
    /// The guest reset the machine through the keyboard controller.
    Reset {
        /// The vCPU that requested the reset.
        cpu: u32,
    },
    /// KVM_EXIT_SHUTDOWN: an exception could not be delivered, nor the double fault for it.
    TripleFault {
        /// The vCPU that shut down.
        cpu: u32,
    },
    /// KVM_EXIT_INTERNAL_ERROR: KVM itself could not continue.
    InternalError {
        /// The vCPU that KVM stopped running.
        cpu: u32,
        /// KVM_INTERNAL_ERROR_*; 1 is an instruction that KVM could not emulate.
        suberror: u32,
        /// Guest-virtual instruction pointer; `None` if KVM could no longer report it.
        rip: Option<u64>,
        /// The first bytes of the instruction, at most 15; empty if KVM did not report them.
        instruction: Vec<u8>,
    },
    /// KVM_EXIT_FAIL_ENTRY: the hardware refused the vCPU's state.
    EntryFailure {
        /// The vCPU that could not be entered.
        cpu: u32,
        /// hardware_entry_failure_reason (Intel SDM 3C, 27.8; AMD APM 2, appendix C).
        reason: u64,
    },
    /// KVM_EXIT_SYSTEM_EVENT: the guest asked for a shutdown, reset or the like.
    SystemEvent {
        /// The vCPU that caused the event.
        cpu: u32,
        /// KVM_SYSTEM_EVENT_* (Linux, include/uapi/linux/kvm.h).
        kind: u32,
    },
    /// KVM_EXIT_MEMORY_FAULT: KVM could not resolve a guest-physical address.
    MemoryFault {
        /// The vCPU that accessed the address.
        cpu: u32,
        /// The guest-physical address that was accessed.
        gpa: u64,
    },
    /// An exit that this VMM never asks KVM for.
    UnexpectedExit {
        /// The vCPU that the exit belongs to.
        cpu: u32,
        /// The KVM_EXIT_* name, as kvm-ioctls spells it.
        exit: String,
    },
    /// The KVM_RUN ioctl itself failed.
    RunFailed {
        /// The vCPU that could not be run.
        cpu: u32,
        /// The errno of the ioctl.
        errno: i32,
    },
}

impl Outcome {
    /// True when the vCPU has only requested the end, by a write to a port: it stands behind the OUT and
    /// can still run an NMI handler, which can report what led there.
    pub fn can_run_handlers(&self) -> bool {
        matches!(self, Self::DebugExit { .. } | Self::Reset { .. })
    }

    /// True when KVM could not continue, false when the guest ended itself in any way. The guest may still
    /// be the cause: an instruction that KVM cannot emulate, a page table that points nowhere.
    pub fn is_kvm_error(&self) -> bool {
        match self {
            Self::DebugExit { .. }
            | Self::Reset { .. }
            | Self::TripleFault { .. }
            | Self::SystemEvent { .. } => false,
            Self::InternalError { .. }
            | Self::EntryFailure { .. }
            | Self::MemoryFault { .. }
            | Self::UnexpectedExit { .. }
            | Self::RunFailed { .. } => true,
        }
    }

    /// The vCPU that the outcome is about.
    pub fn cpu(&self) -> u32 {
        match *self {
            Self::DebugExit { cpu, .. }
            | Self::Reset { cpu }
            | Self::TripleFault { cpu }
            | Self::InternalError { cpu, .. }
            | Self::EntryFailure { cpu, .. }
            | Self::SystemEvent { cpu, .. }
            | Self::MemoryFault { cpu, .. }
            | Self::UnexpectedExit { cpu, .. }
            | Self::RunFailed { cpu, .. } => cpu,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu{}: ", self.cpu())?;
        match self {
            Self::DebugExit { code, .. } => write!(f, "exit code {code}"),
            Self::Reset { .. } => f.write_str("the guest reset the machine"),
            Self::TripleFault { .. } => f.write_str("triple fault"),
            Self::InternalError { suberror, rip, instruction, .. } => {
                write_internal_error(f, *suberror, *rip, instruction)
            }
            Self::EntryFailure { reason, .. } => {
                write!(f, "the hardware refused the vCPU's state (reason {reason:#x})")
            }
            Self::SystemEvent { kind, .. } => write!(f, "KVM system event {kind}"),
            Self::MemoryFault { gpa, .. } => {
                write!(f, "KVM could not access guest-physical {gpa:#x}")
            }
            Self::UnexpectedExit { exit, .. } => write!(f, "unexpected KVM exit {exit}"),
            Self::RunFailed { errno, .. } => {
                write!(f, "KVM_RUN failed: {}", std::io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

fn write_internal_error(
    f: &mut fmt::Formatter<'_>,
    suberror: u32,
    rip: Option<u64>,
    instruction: &[u8],
) -> fmt::Result {
    match suberror {
        KVM_INTERNAL_ERROR_EMULATION => {
            f.write_str("KVM could not emulate an instruction")?;
        }
        KVM_INTERNAL_ERROR_DELIVERY_EV => {
            f.write_str("KVM could not deliver an event to the guest")?;
        }
        _ => f.write_str("KVM internal error")?,
    }
    write!(f, " (suberror {suberror})")?;
    if let Some(rip) = rip {
        write!(f, " at rip {rip:#018x}")?;
    }
    if !instruction.is_empty() {
        f.write_str(", bytes")?;
        for byte in instruction {
            write!(f, " {byte:02x}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_ends_are_distinguished_from_kvm_errors() {
        const EFAULT: i32 = 14;
        let internal = |suberror| {
            let (rip, instruction) = (Some(0x10_0000), vec![0x0f]);
            Outcome::InternalError { cpu: 0, suberror, rip, instruction }
        };
        let table = [
            (Outcome::DebugExit { cpu: 0, code: 0 }, false),
            (Outcome::Reset { cpu: 0 }, false),
            (Outcome::TripleFault { cpu: 0 }, false),
            (Outcome::SystemEvent { cpu: 0, kind: 3 }, false),
            (internal(1), true),
            (internal(3), true),
            (Outcome::EntryFailure { cpu: 0, reason: 0x8000_0021 }, true),
            (Outcome::MemoryFault { cpu: 0, gpa: 0x1000 }, true),
            (Outcome::UnexpectedExit { cpu: 0, exit: "KVM_EXIT_HLT".into() }, true),
            (Outcome::RunFailed { cpu: 0, errno: EFAULT }, true),
        ];
        for (outcome, is_kvm_error) in table {
            assert_eq!(outcome.is_kvm_error(), is_kvm_error, "{outcome}");
        }
    }

    #[test]
    fn an_emulation_failure_names_its_address_and_bytes() {
        let outcome = Outcome::InternalError {
            cpu: 3,
            suberror: 1,
            rip: Some(0xffff_ffff_8000_1234),
            instruction: vec![0x0f, 0x57, 0xc0],
        };
        let expected = "cpu3: KVM could not emulate an instruction (suberror 1) \
                        at rip 0xffffffff80001234, bytes 0f 57 c0";
        assert_eq!(outcome.to_string(), expected);
    }
}
