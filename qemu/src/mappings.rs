//! Memory mappings of a process, from `/proc/PID/maps` (proc_pid_maps(5)).
//!
//! Owns the parser. Refuses to own opening the file and reading through a mapping (`process_memory`, the
//! caller).

/// Maximum number of mappings: Linux's default limit is 65,530 per process.
const MAX_MAPPINGS: usize = 1 << 20;

/// A memory mapping of a process: one line of `/proc/PID/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// First virtual address in the process.
    pub(crate) start: u64,
    /// Virtual address after the last byte.
    pub(crate) end: u64,
    /// True if writes go to the file, false if they stay private to the process.
    pub(crate) shared: bool,
    /// Offset of the mapping's first byte in the file.
    pub(crate) offset: u64,
    /// The mapped file; `None` for anonymous memory.
    pub(crate) file: Option<FileId>,
}

/// Identity of a file: its device and inode numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FileId {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) inode: u64,
}

/// Parses the text into mappings in ascending order. The error is the first line that is malformed, does
/// not lie above the previous mapping, or exceeds the maximum number.
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

/// Parses a line such as
/// `7f2b2ffff000-7f2cafe00000 rw-s 00000000 00:01 251    /memfd:ram (deleted)`. The name may have any
/// encoding and is not needed.
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

    /// Mappings of a QEMU 7.2 with a memfd; the last name is edited not to be UTF-8.
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
