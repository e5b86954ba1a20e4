//! The I/O APIC (82093AA), which here only routes the serial port's interrupt to the boot CPU.

use super::layout::{DIRECT_MAP_END, direct_map};

const SELECT: usize = 0x00;
const WINDOW: usize = 0x10;
const REDIRECTION: u32 = 0x10;

/// Routes input `pin` of the I/O APIC at the physical address `base` to the CPU with the APIC ID
/// `destination` (0 to 255), as `vector`, edge-triggered.
pub fn route(base: u64, pin: u32, vector: u8, destination: u32) {
    if base + WINDOW as u64 >= DIRECT_MAP_END {
        return;
    }
    write(base, REDIRECTION + 2 * pin + 1, destination << 24);
    write(base, REDIRECTION + 2 * pin, u32::from(vector));
}

fn write(base: u64, register: u32, value: u32) {
    let address = direct_map(base);
    // SAFETY: mapped, and the MADT says that an I/O APIC's registers lie there.
    unsafe {
        ((address + SELECT) as *mut u32).write_volatile(register);
        ((address + WINDOW) as *mut u32).write_volatile(value);
    }
}
