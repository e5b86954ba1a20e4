//! Addresses of a module's sections, as the kernel keeps them for /sys/module/*/sections.
//!
//! Owns the walk of `struct module_sect_attrs` (kernel/module/sysfs.c) and the build-id in one of the sections. Refuses to
//! own the list of modules (`modules`). Numbers are the guest's, and bounded.

use nmiscope_machine::{ReadError, VirtualAddress, VirtualMemory};
use nmiscope_symbolizer::linux::{Btf, BtfError};

use super::build_id;
use super::modules::{read_text, text_of};

/// The most sections that a module is believed to have; one with live-patched or many per-function sections has some
/// hundred.
const MAX_SECTIONS: u64 = 1024;
/// The longest name of a section that is compared, with its zero byte.
const NAME: usize = 64;
/// Bytes of a note with a build-id: header, name and 20 bytes.
const BUILD_ID_NOTE: usize = 36;

/// Places of the members of `struct module_sect_attrs`, in bytes.
#[derive(Debug, Clone)]
pub(super) struct SectionsLayout {
    /// The pointer in `struct module`.
    attributes: u64,
    /// The number of sections; `None` where a list of pointers behind them has its end.
    count: Option<u64>,
    /// The pointer to that list.
    pointers: u64,
    first: u64,
    each: u64,
    name: u64,
    address: u64,
}

impl SectionsLayout {
    pub(super) fn new(btf: &Btf) -> Result<Self, BtfError> {
        let at = |structure: &str, path: &str| Ok(btf.field(structure, path)?.offset);
        let attributes = |path: &str| at("module_sect_attrs", path);
        // From 6.14 on the sections are `struct bin_attribute` themselves, with the address as `private`.
        let (each, name, address) = match btf.size_of("module_sect_attr") {
            Ok(each) => {
                let part = |path: &str| at("module_sect_attr", path);
                (each, part("battr.attr.name")?, part("address")?)
            }
            Err(_) => {
                let part = |path: &str| at("bin_attribute", path);
                (btf.size_of("bin_attribute")?, part("attr.name")?, part("private")?)
            }
        };
        Ok(Self {
            attributes: at("module", "sect_attrs")?,
            count: attributes("nsections").ok(),
            pointers: attributes("grp.bin_attrs")?,
            first: attributes("attrs")?,
            each,
            name,
            address,
        })
    }

    /// Reads the names and addresses of a module's sections. A name that cannot be read is left out.
    pub(super) fn read(
        &self,
        module: VirtualAddress,
        memory: &dyn VirtualMemory,
    ) -> Result<Vec<(String, VirtualAddress)>, ReadError> {
        let attributes = memory.read_u64(module.wrapping_add(self.attributes))?;
        if attributes == 0 {
            return Ok(Vec::new());
        }
        let attributes = VirtualAddress(attributes);
        let first = attributes.wrapping_add(self.first);
        let count = match self.count {
            Some(at) => memory.read_u32(attributes.wrapping_add(at))?.into(),
            None => {
                let end = memory.read_u64(attributes.wrapping_add(self.pointers))?;
                end.saturating_sub(first.0) / self.each.max(1)
            }
        };
        let mut sections = Vec::new();
        for number in 0..count.min(MAX_SECTIONS) {
            let section = first.wrapping_add(number.wrapping_mul(self.each));
            let name_at = memory.read_u64(section.wrapping_add(self.name))?;
            let address = memory.read_u64(section.wrapping_add(self.address))?;
            let mut name = [0; NAME];
            if read_text(VirtualAddress(name_at), &mut name, memory).is_some() {
                sections.push((text_of(&name), VirtualAddress(address)));
            }
        }
        Ok(sections)
    }
}

/// Reads the build-id of a module in the section that has it.
pub(super) fn build_id(
    sections: &[(String, VirtualAddress)],
    memory: &dyn VirtualMemory,
) -> Option<Vec<u8>> {
    let (_, address) = sections.iter().find(|(name, _)| name == ".note.gnu.build-id")?;
    let mut note = [0; BUILD_ID_NOTE];
    memory.read(*address, &mut note).ok()?;
    build_id::in_notes(&note)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: u64 = 0x1000;
    const ATTRIBUTES: u64 = 0x2000;
    const NAMES: u64 = 0x8000;

    struct Bytes(Vec<u8>);

    impl VirtualMemory for Bytes {
        fn read(&self, address: VirtualAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
            let at = address.0 as usize;
            let bytes = self.0.get(at..at.saturating_add(buffer.len()));
            let no_memory = ReadError::Target {
                address: nmiscope_machine::PhysicalAddress(address.0),
                length: buffer.len(),
                reason: "no memory".into(),
            };
            buffer.copy_from_slice(bytes.ok_or(no_memory)?);
            Ok(())
        }
    }

    fn layout(counted: bool) -> SectionsLayout {
        SectionsLayout {
            attributes: 0x10,
            count: counted.then_some(0x28),
            pointers: 0x18,
            first: 0x30,
            each: 0x48,
            name: 0,
            address: 0x40,
        }
    }

    /// A module with two sections, the second with its build-id.
    fn memory() -> Bytes {
        let mut bytes = vec![0; 0xa000];
        let mut put = |at: u64, part: &[u8]| {
            bytes[at as usize..][..part.len()].copy_from_slice(part);
        };
        put(MODULE + 0x10, &ATTRIBUTES.to_le_bytes());
        put(ATTRIBUTES + 0x28, &2_u32.to_le_bytes());
        put(ATTRIBUTES + 0x18, &(ATTRIBUTES + 0x30 + 2 * 0x48).to_le_bytes());
        let names: [&[u8]; 2] = [b".text\0", b".note.gnu.build-id\0"];
        for (number, name) in (0..).zip(names) {
            let (section, name_at) = (ATTRIBUTES + 0x30 + number * 0x48, NAMES + number * 0x100);
            put(name_at, name);
            put(section, &name_at.to_le_bytes());
            put(section + 0x40, &(0x9000 + number * 0x100).to_le_bytes());
        }
        put(0x9100, &[&[4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0][..], b"GNU\0", &[7; 20]].concat());
        Bytes(bytes)
    }

    #[test]
    fn sections_are_read_by_their_count_or_to_the_pointers_behind_them() {
        for counted in [true, false] {
            let sections = layout(counted).read(VirtualAddress(MODULE), &memory());
            let sections = sections.expect("sections");
            let text = (".text".to_owned(), VirtualAddress(0x9000));
            let note = (".note.gnu.build-id".to_owned(), VirtualAddress(0x9100));
            assert_eq!(sections, [text, note], "{counted}");
            assert_eq!(build_id(&sections, &memory()), Some(vec![7; 20]));
        }
    }

    #[test]
    fn impossible_counts_and_pointers_are_bounded() {
        let mut memory = memory();
        memory.0[ATTRIBUTES as usize + 0x28..][..4].fill(0xff);
        memory.0[ATTRIBUTES as usize + 0x18..][..8].fill(0xff);
        for counted in [true, false] {
            // The memory ends before the most sections that are read.
            assert!(layout(counted).read(VirtualAddress(MODULE), &memory).is_err());
        }
        memory.0[MODULE as usize + 0x10..][..8].fill(0);
        assert_eq!(layout(true).read(VirtualAddress(MODULE), &memory), Ok(Vec::new()));
    }
}
