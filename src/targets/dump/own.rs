//! A core that this program wrote.
//!
//! Owns the two halves together: memory from the file, states from the note that `capture` has read.
//! Refuses to own the file (`elf_core`) and the note (`capture`).

use super::{Dump, StoredMemory};
use crate::elf_core::{Core, Extents};
use crate::targets::States;

impl<'data> Dump<'data> {
    /// A core with the states of its vCPUs, by number.
    pub fn new(core: Core<'data>, states: States) -> Self {
        let findings = core.findings().iter().map(ToString::to_string).collect();
        Self { memory: Box::new(core), states, findings }
    }
}

impl StoredMemory for Core<'_> {
    fn extents(&self) -> Extents {
        Core::extents(self)
    }
}
