//! The machine's I/O ports: a serial port and four doorbells.
//!
//! Owns which port is which device and what an unknown port reads as; refuses to own what a
//! doorbell *means* (the vCPU thread acts on the [`Effect`]). Called by every vCPU thread, at once.
//!
//! An unknown port or address reads as all ones and ignores writes, as on a PC's empty bus.

mod serial;

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::debug;
use vmm_sys_util::eventfd::EventFd;

use crate::layout;
pub use serial::SerialInputFull;
use serial::SerialPort;

/// I/O port numbers of the doorbells, which the guest must know too. They must differ from each other,
/// from COM1's and from those of the in-kernel PIC and PIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// A write of 1, 2 or 4 bytes ends the VM with that code.
    pub debug_exit: u16,
    /// Each byte written becomes an [`crate::VmEvent::Post`].
    pub post: u16,
    /// Written by the guest's NMI handler as the last thing before it returns.
    pub nmi_done: u16,
}

/// Action that a vCPU thread has to take after a port write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    DebugExit(u32),
    Reset,
    Post(u8),
    NmiDone,
}

/// All devices of one VM, shared by its vCPU threads.
#[derive(Debug)]
pub(crate) struct Devices {
    ports: Ports,
    serial: Mutex<SerialPort>,
    /// Count of bytes that the guest has written to COM1. Outside of the lock, which a blocked writer holds.
    serial_bytes: Arc<AtomicU64>,
}

impl Devices {
    /// Makes a VM's devices. `interrupt` raises COM1's interrupt line when it is written.
    pub(crate) fn new(ports: Ports, interrupt: EventFd, output: Box<dyn Write + Send>) -> Self {
        let serial_bytes = Arc::new(AtomicU64::new(0));
        let serial = SerialPort::new(interrupt, output, serial_bytes.clone());
        Self { ports, serial: Mutex::new(serial), serial_bytes }
    }

    /// Locks COM1. A poisoned lock is taken all the same: a panic in the caller's writer leaves the
    /// registers as they were.
    pub(crate) fn serial(&self) -> MutexGuard<'_, SerialPort> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of bytes that the guest has written to its serial port so far.
    pub(crate) fn serial_bytes(&self) -> u64 {
        self.serial_bytes.load(Ordering::Relaxed)
    }

    /// Reads `port` into `data`. A string instruction reads many units in one exit.
    pub(crate) fn read(&self, port: u16, data: &mut [u8]) {
        match port {
            _ if layout::COM1.contains(&port) => {
                let mut serial = self.serial();
                data.fill_with(|| serial.read((port - layout::COM1.start()) as u8));
            }
            layout::SYSTEM_CONTROL_B | layout::I8042_COMMAND => data.fill(0),
            _ => {
                debug!(port, len = data.len(), "read from a port without a device");
                data.fill(0xff);
            }
        }
    }

    /// Writes `data` to `port`. A string instruction writes many units in one exit.
    pub(crate) fn write(&self, port: u16, data: &[u8]) -> Effect {
        let Some(&first) = data.first() else {
            return Effect::None;
        };
        match port {
            _ if layout::COM1.contains(&port) => {
                let mut serial = self.serial();
                for byte in data {
                    serial.write((port - layout::COM1.start()) as u8, *byte);
                }
                Effect::None
            }
            _ if port == self.ports.debug_exit => Effect::DebugExit(little_endian(data)),
            _ if port == self.ports.post => Effect::Post(first),
            _ if port == self.ports.nmi_done => Effect::NmiDone,
            layout::I8042_COMMAND if first == layout::I8042_RESET => Effect::Reset,
            layout::SYSTEM_CONTROL_B => Effect::None,
            _ => {
                debug!(port, len = data.len(), "write to a port without a device");
                Effect::None
            }
        }
    }
}

/// Returns the first unit of a port write, at most 4 bytes.
fn little_endian(data: &[u8]) -> u32 {
    data.iter().take(4).rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Devices {
        let ports = Ports { debug_exit: 0xf4, post: 0x80, nmi_done: 0xf8 };
        Devices::new(ports, EventFd::new(libc::EFD_NONBLOCK).unwrap(), Box::new(std::io::sink()))
    }

    #[test]
    fn a_port_without_a_device_reads_as_all_ones() {
        let mut data = [0; 4];
        devices().read(0x1234, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    #[test]
    fn system_control_port_b_shows_no_parity_error() {
        let mut data = [0xff];
        devices().read(0x61, &mut data);
        assert_eq!(data, [0]);
    }

    #[test]
    fn an_exit_code_keeps_its_width() {
        let devices = devices();
        assert_eq!(devices.write(0xf4, &[7]), Effect::DebugExit(7));
        assert_eq!(devices.write(0xf4, &[0x34, 0x12]), Effect::DebugExit(0x1234));
        assert_eq!(devices.write(0xf4, &[1, 2, 3, 0x80]), Effect::DebugExit(0x8003_0201));
    }

    #[test]
    fn doorbells_and_the_keyboard_reset_have_their_effects() {
        let devices = devices();
        assert_eq!(devices.write(0x80, &[0x42]), Effect::Post(0x42));
        assert_eq!(devices.write(0xf8, &[0]), Effect::NmiDone);
        assert_eq!(devices.write(0x64, &[0xfe]), Effect::Reset);
        assert_eq!(devices.write(0x64, &[0x20]), Effect::None);
        assert_eq!(devices.write(0x80, &[]), Effect::None);
    }
}
