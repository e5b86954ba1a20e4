//! The serial port COM1 (16550): the console's output, and the keys of sysrq. All waits are bounded: if
//! the port does not become ready, a burst of bytes is dropped and counted.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::instructions::{in_byte, out_byte, out_bytes};

const BASE: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = BASE + 1;
const FIFO_CONTROL: u16 = BASE + 2;
const LINE_CONTROL: u16 = BASE + 3;
const MODEM_CONTROL: u16 = BASE + 4;
const LINE_STATUS: u16 = BASE + 5;

const DATA_READY: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 0x20;
const FIFO_SIZE: usize = 16;
const MAX_POLLS: u32 = 100_000;

/// Legacy interrupt number of COM1, and also its global one: the MADT has no override for it.
pub const INTERRUPT: u32 = 4;

/// Count of bytes dropped because the transmitter stayed busy for too long.
static DROPPED: AtomicU32 = AtomicU32::new(0);

/// Sets the port up: 115200 baud, 8N1, FIFOs on.
pub fn init() {
    out_byte(LINE_CONTROL, 0x80);
    out_byte(BASE, 1);
    out_byte(INTERRUPT_ENABLE, 0);
    out_byte(LINE_CONTROL, 0x03);
    out_byte(FIFO_CONTROL, 0x07);
}

/// Enables the interrupt for received bytes.
pub fn enable_receive_interrupt() {
    out_byte(MODEM_CONTROL, 0x0b); // OUT2 lets the interrupt through
    out_byte(INTERRUPT_ENABLE, 0x01);
}

/// Sends `bytes`, in bursts of the FIFO's size.
pub fn write(bytes: &[u8]) {
    for burst in bytes.chunks(FIFO_SIZE) {
        let ready = (0..MAX_POLLS).any(|_| in_byte(LINE_STATUS) & TRANSMITTER_EMPTY != 0);
        if ready {
            out_bytes(BASE, burst);
        } else {
            DROPPED.fetch_add(burst.len() as u32, Relaxed);
        }
    }
}

/// Returns the next received byte, if there is one.
pub fn read() -> Option<u8> {
    (in_byte(LINE_STATUS) & DATA_READY != 0).then(|| in_byte(BASE))
}
