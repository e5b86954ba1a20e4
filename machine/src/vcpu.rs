//! A single vCPU of a stopped machine.
//!
//! Owns the parts of the state together; refuses to own how they are read. Made by every source of vCPUs,
//! live or stored, and stored in cores.

use serde::{Deserialize, Serialize};

use crate::arch::x86_64::{Execution, MpState, Registers};
use crate::nmi::NmiState;

/// A vCPU stopped between two instructions, as its hypervisor reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuState {
    /// The vCPU's number, from 0 on.
    pub cpu: u32,
    /// The registers of the vCPU.
    pub registers: Registers,
    /// The NMI state and interrupt shadow; `None` where the source does not record them.
    pub nmi: Option<NmiState>,
    /// The multiprocessing state: running, halted or never started.
    pub mp_state: MpState,
    /// True in system-management mode. Cores leave the field out where it is false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub smm: bool,
    /// True if the timer of a halted vCPU's local APIC will raise an interrupt that the vCPU takes, false if
    /// it will not; `None` for a vCPU that is not halted, and where the source does not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer_armed: Option<bool>,
}

impl VcpuState {
    /// True when the vCPU is known to be inside an NMI handler.
    pub fn is_in_nmi(&self) -> bool {
        self.nmi.is_some_and(|nmi| nmi.masked)
    }

    /// The execution state of the vCPU.
    pub fn execution(&self) -> Execution {
        Execution::new(self.mp_state, &self.registers, self.smm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state as version 3 of the core's note has it.
    const STORED: &str = concat!(
        r#"{"cpu":2,"registers":{"#,
        r#""rax":1,"rbx":2,"rcx":3,"rdx":4,"#,
        r#""rsi":5,"rdi":6,"rsp":7,"rbp":8,"r8":9,"r9":10,"#,
        r#""r10":11,"r11":12,"r12":13,"r13":14,"r14":15,"r15":16,"#,
        r#""rip":17,"rflags":18,"cr0":19,"cr2":20,"cr3":21,"cr4":22,"efer":23,"#,
        r#""cs":{"selector":24,"base":25},"ss":{"selector":26,"base":27},"ds":{"selector":28,"base":29},"#,
        r#""es":{"selector":30,"base":31},"fs":{"selector":32,"base":33},"gs":{"selector":34,"base":35},"#,
        r#""cpl":3,"idt_base":36,"idt_limit":37},"#,
        r#""nmi":{"pending":false,"injected":true,"#,
        r#""masked":false,"interrupt_shadow":true},"mp_state":"Halted"}"#,
    );

    #[test]
    fn a_stored_state_is_read_and_written_as_it_was() {
        let state: VcpuState = serde_json::from_str(STORED).expect("a state");
        assert_eq!((state.cpu, state.registers.r15, state.smm), (2, 16, false));
        assert_eq!(state.execution(), Execution::Halted);
        assert_eq!(serde_json::to_string(&state).expect("text"), STORED);
    }
}
