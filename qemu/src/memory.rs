//! Guest-physical memory of a QEMU, from the source that may be read.
//!
//! Owns the dispatch to the two sources. Refuses to own the reads (`process_memory`, `monitor_memory`) and
//! the choice of a source (`qemu`).

use nmiscope_machine::{PhysicalAddress, PhysicalMemory, ReadError};

use crate::memory_map::MappedRange;
use crate::monitor_memory::MonitorMemory;
use crate::process_memory::ProcessMemory;

/// Guest-physical memory of a QEMU, from one of two sources.
#[derive(Debug)]
pub enum GuestMemory {
    /// Memory read from QEMU's process, without QEMU's help.
    Process(ProcessMemory),
    /// Memory that QEMU reads for this process, which may not read QEMU's memory itself.
    Monitor(MonitorMemory),
}

impl GuestMemory {
    /// The guest's RAM and firmware, in ascending order; device memory is omitted.
    pub fn ranges(&self) -> &[MappedRange] {
        match self {
            Self::Process(memory) => memory.ranges(),
            Self::Monitor(memory) => memory.ranges(),
        }
    }

    /// Drops cached data, so that later reads return the memory's content at that time. Reads from the
    /// process are never cached.
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
