//! A core that `write` made: its registers, nmiscope's own note, and its other notes.
//!
//! Owns the recognition of the own note and the versions of it that are read. Refuses to own its contents
//! (`capture`). Called by everything that works on a core as it would on a VM.

use nmiscope_machine::{Mapping, PhysicalAddress, PhysicalMemory, ReadError};

use super::extents::Extents;
use super::fault::{CoreError, Damage};
use super::format::u32_at;
use super::notes::{
    CORE, CpuRegisters, ElfNote, GNU, NT_GNU_BUILD_ID, NT_PRSTATUS, OWN_HEADER, VMCOREINFO,
};
use super::read::ElfCore;
use super::{FORMAT_VERSION, OLDEST_VERSION};

/// A core of nmiscope, over the bytes of its file. As [`PhysicalMemory`] it is the memory in the file.
#[derive(Debug, Clone)]
pub struct Core<'data> {
    elf: ElfCore<'data>,
    cpus: Vec<CpuRegisters>,
    version: u32,
    own: &'data [u8],
    findings: Vec<Damage>,
}

impl<'data> Core<'data> {
    /// Reads the headers and notes of a file.
    ///
    /// # Errors
    /// The file is no core of nmiscope, or is too damaged.
    pub fn parse(file: &'data [u8]) -> Result<Self, CoreError> {
        Self::new(ElfCore::parse(file)?)
    }

    /// Reads the notes of a core.
    ///
    /// # Errors
    /// The core has no note of nmiscope, or one that is damaged or of another version.
    pub fn new(elf: ElfCore<'data>) -> Result<Self, CoreError> {
        let Some(own) = elf.notes().iter().find(|note| note.is_own()) else {
            let fault = elf.notes_fault().cloned();
            return Err(fault.unwrap_or_else(|| CoreError::NotOurs(elf.kind())));
        };
        let (version, own) = contents_of_own(own.description)?;
        let mut findings = elf.findings().to_vec();
        let cpus = cpus(elf.notes(), &mut findings);
        Ok(Self { elf, cpus, version, own, findings })
    }

    /// Returns the registers of each vCPU that has them, in the order of the file.
    pub fn cpus(&self) -> &[CpuRegisters] {
        &self.cpus
    }

    /// Returns the version of the core's format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Returns the contents of nmiscope's own note.
    pub fn note(&self) -> &'data [u8] {
        self.own
    }

    /// Returns the guest's VMCOREINFO; `None` if the core has none.
    pub fn vmcoreinfo(&self) -> Option<&'data [u8]> {
        let found = self.elf.notes().iter().find(|note| note.name == VMCOREINFO);
        found.map(|note| note.description)
    }

    /// Returns the build-id of the image that the guest ran; `None` if the core has none.
    pub fn build_id(&self) -> Option<&'data [u8]> {
        let found = self.elf.notes().iter().find(|note| note.is(GNU, NT_GNU_BUILD_ID));
        found.map(|note| note.description)
    }

    /// Returns the damage to the file, each kind once.
    pub fn findings(&self) -> &[Damage] {
        &self.findings
    }

    /// Returns the guest-physical memory of all segments, including zeros that are not in the file.
    pub fn extents(&self) -> Extents {
        self.elf.extents()
    }

    /// Returns the virtual addresses of the segments, in the order of the file. A debugger uses them; the
    /// guest's page tables are more reliable.
    pub fn views(&self) -> &[Mapping] {
        self.elf.views()
    }
}

impl PhysicalMemory for Core<'_> {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.elf.read(address, buffer)
    }
}

/// Splits the own note's description into its version and contents.
fn contents_of_own(description: &[u8]) -> Result<(u32, &[u8]), CoreError> {
    let short = CoreError::Malformed("the note of nmiscope is too short for its version");
    match (u32_at(description, 0), description.get(OWN_HEADER..)) {
        (Some(version @ OLDEST_VERSION..=FORMAT_VERSION), Some(contents)) => {
            Ok((version, contents))
        }
        (Some(OLDEST_VERSION..=FORMAT_VERSION) | None, _) => Err(short),
        (Some(found), _) => Err(CoreError::Version { found }),
    }
}

fn cpus(all: &[ElfNote<'_>], findings: &mut Vec<Damage>) -> Vec<CpuRegisters> {
    let mut cpus: Vec<CpuRegisters> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut damaged = 0;
    for note in all.iter().filter(|note| note.is(CORE, NT_PRSTATUS)) {
        match CpuRegisters::decode(note.description) {
            Some(cpu) if seen.insert(cpu.cpu) => cpus.push(cpu),
            _ => damaged += 1,
        }
    }
    if damaged > 0 {
        findings.push(Damage::DamagedRegisters { count: damaged });
    }
    cpus
}
