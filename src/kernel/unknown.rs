//! A kernel of which nothing is known but why: there is nothing to watch and no buffer to read.

use nmiscope_machine::{PhysicalMemory, Registers};

use super::adapter::{Kernel, Located};

/// An unknown kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// What was not found.
    pub reason: String,
}

impl Kernel for Unknown {
    fn unknown_because(&self) -> Option<&str> {
        Some(&self.reason)
    }

    fn locate(
        &self,
        _memory: &dyn PhysicalMemory,
        _registers: &mut dyn Iterator<Item = Result<Registers, String>>,
    ) -> Result<Box<dyn Located>, String> {
        Err(self.reason.clone())
    }
}
