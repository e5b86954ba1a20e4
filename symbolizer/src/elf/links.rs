//! References from an ELF file to other files.
//!
//! Owns the sections that have them, and the checks that a file is the one that is meant. Refuses to own
//! paths: a name comes from the image, which is hostile. Called by [`Image`](crate::Image) and by whoever
//! opens files.

use super::{DebugLink, Elf};

/// Longest name of a file that is read from an image, in bytes: PATH_MAX of Linux.
const MAX_NAME: usize = 4096;

/// The supplementary file that debug information refers to: `.gnu_debugaltlink`, as `dwz -m` makes it, or
/// `.debug_sup` (DWARF 5, 7.3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SupplementaryLink<'data> {
    /// The file's path, absolute or relative to the folder of the file with the debug information. It
    /// comes from the image: check it before using it as a path.
    pub name: &'data [u8],
    /// The file's build-id, or in DWARF 5 its checksum.
    pub id: &'data [u8],
}

/// Returns the GNU build-id of an ELF file of any kind, an object that was not linked included; `None` for
/// another file, or one without a build-id.
pub fn build_id(file: &[u8]) -> Option<&[u8]> {
    Elf::parse_object(file).ok()?.build_id()
}

impl SupplementaryLink<'_> {
    /// True if `file` is the supplementary file that is meant, by its build-id or its checksum.
    pub fn matches(&self, file: &[u8]) -> bool {
        let Ok(elf) = Elf::parse_object(file) else { return false };
        elf.build_id() == Some(self.id) || own_checksum(&elf) == Some(self.id)
    }
}

impl<'data> Elf<'data> {
    pub(crate) fn debuglink(&self) -> Option<DebugLink<'data>> {
        let bytes = self.section(".gnu_debuglink")?.bytes;
        let length = bytes.iter().take(256).position(|&byte| byte == 0)?;
        let crc = bytes.get((length + 1).next_multiple_of(4)..)?.first_chunk()?;
        Some(DebugLink { name: &bytes[..length], crc: u32::from_le_bytes(*crc) })
    }

    pub(crate) fn supplementary_link(&self) -> Option<SupplementaryLink<'data>> {
        if let Some(section) = self.section(".gnu_debugaltlink") {
            let (name, id) = name_and_rest(section.bytes)?;
            return Some(SupplementaryLink { name, id });
        }
        let (0, name, id) = debug_sup(self)? else { return None };
        Some(SupplementaryLink { name, id })
    }
}

/// The checksum that a supplementary file has of itself.
fn own_checksum<'data>(elf: &Elf<'data>) -> Option<&'data [u8]> {
    let (1, _, checksum) = debug_sup(elf)? else { return None };
    Some(checksum).filter(|checksum| !checksum.is_empty())
}

/// The section `.debug_sup`: 1 for a supplementary file or 0 for one that refers to it, a name and a
/// checksum.
fn debug_sup<'data>(elf: &Elf<'data>) -> Option<(u8, &'data [u8], &'data [u8])> {
    let (_version, rest) = elf.section(".debug_sup")?.bytes.split_first_chunk::<2>()?;
    let (&is_supplementary, rest) = rest.split_first()?;
    let (name, rest) = name_and_rest(rest)?;
    // ULEB128: a checksum of 128 bytes or more is none that is known.
    let (&length, rest) = rest.split_first()?;
    Some((is_supplementary, name, rest.get(..usize::from(length))?))
}

fn name_and_rest(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = bytes.iter().take(MAX_NAME).position(|&byte| byte == 0)?;
    Some((&bytes[..length], &bytes[length + 1..]))
}
