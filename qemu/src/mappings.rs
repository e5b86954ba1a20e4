//! Mappings of a process, as `/proc/PID/maps` has them (proc_pid_maps(5)).
//!
//! Owns the parser. Refuses to own the file's opening and what is read through a mapping
//! (`process_memory`).

/// The most mappings that are read: Linux's own default limit is 65,530 a process.
const MAX_MAPPINGS: usize = 1 << 20;

/// A mapping of the process's memory, as a line of /proc/PID/maps has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// First address.
    pub(crate) start: u64,
    /// The address behind the last one.
    pub(crate) end: u64,
    /// True when writes go to the file, false when they stay in the process.
    pub(crate) shared: bool,
    /// The offset of the first byte in the file.
    pub(crate) offset: u64,
    /// The file; `None` for anonymous memory.
    pub(crate) file: Option<FileId>,
}

/// A file as the kernel names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FileId {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) inode: u64,
}

/// Parses the text into mappings in ascending order. The error is the first line that is not a mapping or
/// does not lie above the one before it, or that is one too many.
pub(crate) fn parse(text: &[u8]) -> Result<Vec<Mapping>, &[u8]> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let mapping = parse_line(line).ok_or(line)?;
        let ascends = mappings.last().is_none_or(|last| last.end <= mapping.start);
        if !ascends || mappings.len() == MAX_MAPPINGS {
            return Err(line);
        }
        mappings.push(mapping);
    }
    Ok(mappings)
}

/// `7f2b2ffff000-7f2cafe00000 rw-s 00000000 00:01 251    /memfd:ram (deleted)`. The name may be in
/// any encoding and is not needed.
fn parse_line(line: &[u8]) -> Option<Mapping> {
    let mut fields =
        line.splitn(6, |&byte| byte == b' ').map(|field| std::str::from_utf8(field).ok());
    let (start, end) = fields.next()??.split_once('-')?;
    let (start, end) = (hex(start)?, hex(end)?);
    let shared = match fields.next()??.as_bytes() {
        [_, _, _, b's'] => true,
        [_, _, _, b'p'] => false,
        _ => return None,
    };
    let offset = hex(fields.next()??)?;
    let (major, minor) = fields.next()??.split_once(':')?;
    let (major, minor) = (hex(major)?.try_into().ok()?, hex(minor)?.try_into().ok()?);
    let inode = fields.next()??.parse().ok()?;
    let file = (inode != 0).then_some(FileId { major, minor, inode });
    (start < end).then_some(Mapping { start, end, shared, offset, file })
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lines of a QEMU 7.2 with a memfd, and one with a name that is no UTF-8.
    const TEXT: &[u8] = b"560c9a625000-560c9a658000 rw-p 00000000 00:00 0 \n\
        560cc7be8000-560cc8d45000 rw-p 00000000 00:00 0                          [heap]\n\
        7f0987fff000-7f09c7fff000 rw-s 00001000 fe:01 251                        /memfd:\xff (deleted)\n";

    #[test]
    fn mapping_with_a_name_in_any_encoding_is_parsed() {
        let mappings = parse(TEXT).expect("mappings");
        assert_eq!(mappings.len(), 3);
        assert_eq!((mappings[0].start, mappings[0].file), (0x560c_9a62_5000, None));
        let file = FileId { major: 0xfe, minor: 1, inode: 251 };
        let last = Mapping {
            start: 0x7f09_87ff_f000,
            end: 0x7f09_c7ff_f000,
            shared: true,
            offset: 0x1000,
            file: Some(file),
        };
        assert_eq!(mappings[2], last);
    }

    proptest! {
        #[test]
        fn mutated_mappings_are_parsed_or_refused(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut text = TEXT.to_vec();
            for (at, byte) in edits {
                let at = at.index(text.len());
                text[at] = byte;
            }
            let _ = parse(&text);
        }
    }

    #[test]
    fn malformed_mapping_is_refused() {
        for line in ["x", "2000-1000 rw-p 0 00:00 0", "1000-2000 rw-x 0 00:00 0", "1-2 rw-p"] {
            assert_eq!(parse(line.as_bytes()), Err(line.as_bytes()));
        }
    }
}
