//! Guest-physical memory of a QEMU, from whichever source may be read.

use nmiscope_machine::{PhysicalAddress, PhysicalMemory, ReadError};

use crate::memory_map::MappedRange;
use crate::monitor_memory::MonitorMemory;
use crate::process_memory::ProcessMemory;

/// Guest-physical memory of a QEMU.
#[derive(Debug)]
pub enum GuestMemory {
    /// Memory of QEMU's process, read without QEMU's help.
    Process(ProcessMemory),
    /// Memory that QEMU reads on behalf of this process, which may not read QEMU's.
    Monitor(MonitorMemory),
}

impl GuestMemory {
    /// The guest's RAM and firmware in ascending order, without the memory of devices.
    pub fn ranges(&self) -> &[MappedRange] {
        match self {
            Self::Process(memory) => memory.ranges(),
            Self::Monitor(memory) => memory.ranges(),
        }
    }

    /// Drops what was kept of earlier reads: the next reads see the memory as it is then. Memory of the
    /// process is never kept.
    pub fn refresh(&self) {
        match self {
            Self::Process(_) => {}
            Self::Monitor(memory) => memory.refresh(),
        }
    }
}

impl PhysicalMemory for GuestMemory {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        match self {
            Self::Process(memory) => memory.read(address, buffer),
            Self::Monitor(memory) => memory.read(address, buffer),
        }
    }
}
