//! Build-ids in a guest's memory: those of the kernel and of its modules.
//!
//! Owns the format of notes in memory (System V gABI, "Note Section"). Refuses to own where notes lie (`mod`,
//! `sections`).

use nmiscope_machine::VirtualMemory;
use nmiscope_symbolizer::linux::Kallsyms;

use super::between;

/// Bytes of a note before its name: namesz, descsz and type.
const HEADER: usize = 12;
const NT_GNU_BUILD_ID: u32 = 3;
/// The longest build-id that is believed, in bytes: `--build-id` of linkers gives 16 or 20.
const LONGEST: usize = 64;

/// Returns the build-id of a kernel by the notes in its image.
pub(super) fn of_kernel(kallsyms: &Kallsyms, memory: &dyn VirtualMemory) -> Option<Vec<u8>> {
    let (_, notes) = between("__start_notes", "__stop_notes", kallsyms, memory)?;
    in_notes(&notes)
}

/// Returns the first GNU build-id in notes.
pub(super) fn in_notes(mut notes: &[u8]) -> Option<Vec<u8>> {
    loop {
        let (header, rest) = notes.split_at_checked(HEADER)?;
        let word = |at: usize| Some(u32::from_le_bytes(*header.get(at..)?.first_chunk()?));
        let (name_size, size, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let (name, rest) = rest.split_at_checked(name_size.checked_next_multiple_of(4)?)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" && (1..=LONGEST).contains(&size) {
            return rest.get(..size).map(<[u8]>::to_vec);
        }
        notes = rest.get(size.checked_next_multiple_of(4)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, description: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [name.len() as u32, description.len() as u32, kind] {
            note.extend_from_slice(&word.to_le_bytes());
        }
        for part in [name, description] {
            note.extend_from_slice(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn build_id_is_found_among_other_notes() {
        let id = [0xab; 20];
        let notes =
            [note(b"Xen\0", 6, b"linux"), note(b"GNU\0", 3, &id), note(b"Linux\0", 0, b"x")];
        let notes = notes.concat();
        assert_eq!(in_notes(&notes), Some(id.to_vec()));
        assert_eq!(in_notes(&notes[..note(b"Xen\0", 6, b"linux").len() + 20]), None);
        assert_eq!(in_notes(&note(b"GNU\0", 1, &id)), None);
    }

    #[test]
    fn impossible_sizes_end_the_search() {
        let mut notes = note(b"Xen\0", 6, b"linux");
        notes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(in_notes(&notes), None);
        assert_eq!(in_notes(&note(b"GNU\0", 3, &[])), None);
        assert_eq!(in_notes(&note(b"GNU\0", 3, &[1; 65])), None);
        assert_eq!(in_notes(&[]), None);
    }
}
