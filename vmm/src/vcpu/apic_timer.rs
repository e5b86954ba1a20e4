//! The timer of a vCPU's local APIC: armed, or lost.
//!
//! Owns the decoding of the APIC's registers; refuses to own what a lost timer means. Called by `state`
//! for halted vCPUs.
//!
//! A halted CPU whose timer is armed idles, for however long: a tickless kernel sets its timer to the next
//! event. Without an armed timer nothing of the CPU's own wakes it. Registers are those of KVM_GET_LAPIC
//! (Linux, Documentation/virt/kvm/api.rst, 4.57), as in SDM vol. 3, 11.4 to 11.8.

use kvm_ioctls::VcpuFd;

use super::state::read_msr;

/// MSR number of the timer's deadline (IA32_TSC_DEADLINE). KVM clears it when the deadline has passed.
const MSR_TSC_DEADLINE: u32 = 0x6e0;

/// Offsets of registers in the APIC's page, in bytes (SDM vol. 3, table 11-1).
mod offset {
    pub const TASK_PRIORITY: usize = 0x80;
    /// First of eight registers with 32 vectors each, 16 bytes apart.
    pub const IN_SERVICE: usize = 0x100;
    /// First of eight registers with 32 vectors each, 16 bytes apart.
    pub const REQUESTED: usize = 0x200;
    pub const LVT_TIMER: usize = 0x320;
    pub const INITIAL_COUNT: usize = 0x380;
    pub const CURRENT_COUNT: usize = 0x390;
}

/// Bit of the timer's entry in the local vector table that masks its interrupt.
const MASKED: u32 = 1 << 16;

/// Mode of the timer, in bits 17 and 18 of its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    OneShot,
    Periodic,
    Deadline,
}

/// Returns true if a vCPU's timer will interrupt it or is about to, false if it will not; `None` if KVM does
/// not say.
pub(super) fn read_armed(vcpu: &VcpuFd) -> Option<bool> {
    let interrupt = vcpu.get_vcpu_events().ok()?.interrupt;
    let apic = vcpu.get_lapic().ok()?;
    let word = |at: usize| {
        let bytes = [0, 1, 2, 3].map(|byte| apic.regs[at + byte].to_ne_bytes()[0]);
        u32::from_le_bytes(bytes)
    };
    let vector = word(offset::LVT_TIMER) & 0xff;
    if interrupt.injected != 0 && u32::from(interrupt.nr) == vector {
        // KVM has taken it from the APIC, and delivers it as the vCPU goes on.
        return Some(true);
    }
    let deadline = match mode(word(offset::LVT_TIMER)) {
        Some(Mode::Deadline) => read_msr(vcpu, MSR_TSC_DEADLINE).ok()?,
        _ => 0,
    };
    Some(is_armed(word, deadline))
}

/// Returns the mode of the timer with this entry; `None` for a reserved one.
fn mode(entry: u32) -> Option<Mode> {
    match entry >> 17 & 3 {
        0 => Some(Mode::OneShot),
        1 => Some(Mode::Periodic),
        2 => Some(Mode::Deadline),
        _ => None,
    }
}

/// Returns true if the timer with these registers has raised, or will raise, an interrupt that the processor
/// takes. `word` reads the register at an offset.
///
/// KVM moves a timer that has expired to the requested interrupts before a halted vCPU leaves it. A request
/// that the priority allows is taken as soon as the vCPU goes on: the timer has expired amid the stop.
fn is_armed(word: impl Fn(usize) -> u32, deadline: u64) -> bool {
    let entry = word(offset::LVT_TIMER);
    let counts = match mode(entry) {
        Some(Mode::OneShot) => word(offset::CURRENT_COUNT) != 0,
        Some(Mode::Periodic) => word(offset::INITIAL_COUNT) != 0,
        Some(Mode::Deadline) => deadline != 0,
        None => false,
    };
    let vector = entry & 0xff;
    let is_set = |first: usize, vector: u32| {
        word(first + 16 * (vector / 32) as usize) & 1 << (vector % 32) != 0
    };
    let is_requested = is_set(offset::REQUESTED, vector);
    let in_service = (0..256).rev().find(|&vector| is_set(offset::IN_SERVICE, vector));
    // Only a vector of a higher class, its upper four bits, interrupts (SDM vol. 3, 11.8.3.1).
    let priority = word(offset::TASK_PRIORITY).max(in_service.unwrap_or(0)) >> 4 & 0xf;
    let is_coming = counts && entry & MASKED == 0;
    (is_coming || is_requested) && vector >> 4 > priority
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const VECTOR: u32 = 0xec;
    const PERIODIC: u32 = 1 << 17;
    const DEADLINE: u32 = 2 << 17;
    const RESERVED: u32 = 3 << 17;

    fn armed(registers: &[(usize, u32)], deadline: u64) -> bool {
        let registers: BTreeMap<usize, u32> = registers.iter().copied().collect();
        is_armed(|at| registers.get(&at).copied().unwrap_or(0), deadline)
    }

    #[test]
    fn a_timer_is_armed_while_it_counts_in_its_mode() {
        let timer = |entry, initial, current| {
            let counts = [(offset::INITIAL_COUNT, initial), (offset::CURRENT_COUNT, current)];
            [&[(offset::LVT_TIMER, entry)][..], &counts].concat()
        };
        assert!(armed(&timer(VECTOR, 9, 1), 0));
        assert!(!armed(&timer(VECTOR, 9, 0), 0), "a one-shot timer that has expired");
        assert!(armed(&timer(VECTOR | PERIODIC, 9, 0), 0));
        assert!(!armed(&timer(VECTOR | PERIODIC, 0, 0), 0), "stopped by a count of 0");
        assert!(!armed(&timer(VECTOR | PERIODIC | MASKED, 9, 9), 0));
        assert!(armed(&timer(VECTOR | DEADLINE, 0, 0), 1));
        assert!(!armed(&timer(VECTOR | DEADLINE, 9, 9), 0), "a deadline that has passed");
        assert!(!armed(&timer(VECTOR | RESERVED, 9, 9), 1));
    }

    /// The timer has expired after the vCPU was asked to stop: nothing counts, and bit 12 of the eighth
    /// register is the request of vector 0xec.
    #[test]
    fn a_timer_whose_request_is_pending_is_armed() {
        let expired = [(offset::LVT_TIMER, VECTOR), (offset::INITIAL_COUNT, 9), (0x270, 1 << 12)];
        assert!(armed(&expired, 0));
        assert!(armed(&[&expired[1..], &[(offset::LVT_TIMER, VECTOR | DEADLINE)]].concat(), 0));
        let with = |register| armed(&[&expired[..], &[register]].concat(), 0);
        assert!(!with((0x170, 1 << 16)), "a handler of a higher class has not ended");
        assert!(!with((0x170, 1 << 12)), "nor has its own");
        assert!(!with((offset::TASK_PRIORITY, 0xe0)));
        let other = [&expired[..2], &[(0x270, 1 << 11)]].concat();
        assert!(!armed(&other, 0), "the request of another vector");
    }

    #[test]
    fn a_timer_whose_interrupt_is_blocked_is_not_armed() {
        let timer = [(offset::LVT_TIMER, VECTOR | PERIODIC), (offset::INITIAL_COUNT, 9)];
        let with = |register| armed(&[&timer[..], &[register]].concat(), 0);
        // Vector 0xec is bit 12 of the eighth register, 0xf0 bit 16 of it, 0x31 bit 17 of the second.
        assert!(!with((0x170, 1 << 16)), "a handler of a higher class has not ended");
        assert!(!with((0x170, 1 << 12)), "nor has its own");
        assert!(with((0x110, 1 << 17)), "one of a lower class");
        assert!(!with((offset::TASK_PRIORITY, 0xe0)));
        assert!(with((offset::TASK_PRIORITY, 0xd0)));
    }
}
