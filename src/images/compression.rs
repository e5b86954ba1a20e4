//! Compressed files, recognised by their first bytes and not by their names.
//!
//! Owns the list of known formats and the bounds on decompression. Called by `modules`, which decompresses,
//! and by `refused`, which only names the format.

use std::io::{self, Read};

/// Largest size that a file may decompress to, in bytes. The largest module of a distribution, with its
/// debug information, is a few hundred megabytes.
const MAX_BYTES: u64 = 1 << 30;
/// Largest window of a decoder, in bytes. `xz -9` needs 64 MiB, and modules are compressed with less.
const MAX_WINDOW: u32 = 128 << 20;

/// A format of compressed files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// The gzip file format, RFC 1952.
    Gzip,
    /// The .xz file format, version 1.
    Xz,
    /// The Zstandard format, RFC 8878.
    Zstandard,
    /// The format of the program bzip2.
    Bzip2,
    /// LZ4, as frames or as the kernel's legacy format.
    Lz4,
    /// The format of the program lzop.
    Lzop,
}

impl Compression {
    /// Detects the format of a file by its magic number. `None` for a file that is not compressed.
    pub fn detect(file: &[u8]) -> Option<Self> {
        const MAGICS: [(&[u8], Compression); 7] = [
            (b"\x1f\x8b", Compression::Gzip),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x28\xb5\x2f\xfd", Compression::Zstandard),
            (b"BZh", Compression::Bzip2),
            (b"\x04\x22\x4d\x18", Compression::Lz4),
            (b"\x02\x21\x4c\x18", Compression::Lz4),
            (b"\x89LZO\0\r\n\x1a\n", Compression::Lzop),
        ];
        MAGICS.iter().find(|(magic, _)| file.starts_with(magic)).map(|&(_, format)| format)
    }

    /// Returns the command that decompresses a file of this format to standard output.
    pub fn program(self) -> &'static str {
        match self {
            Self::Gzip => "gzip -dc",
            Self::Xz => "xz -dc",
            Self::Zstandard => "zstd -dc",
            Self::Bzip2 => "bzip2 -dc",
            Self::Lz4 => "lz4 -dc",
            Self::Lzop => "lzop -dc",
        }
    }

    /// Decompresses a file into memory.
    ///
    /// # Errors
    /// The file is damaged, holds more than a gigabyte, or has a format that kernel modules do not use.
    pub fn decompress(self, file: &[u8]) -> io::Result<Vec<u8>> {
        self.decompress_within(file, MAX_BYTES)
    }

    /// Decompresses a file of at most `limit` bytes into memory.
    ///
    /// # Errors
    /// The errors are those of [`decompress`](Self::decompress).
    pub fn decompress_within(self, file: &[u8], limit: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => read(flate2::read::MultiGzDecoder::new(file), limit),
            Self::Xz => {
                read(lzma_rust2::XzReader::new_mem_limit(file, true, MAX_WINDOW >> 10), limit)
            }
            Self::Zstandard => {
                let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(
                    file,
                    u64::from(MAX_WINDOW),
                );
                read(decoder.map_err(io::Error::other)?, limit)
            }
            Self::Bzip2 | Self::Lz4 | Self::Lzop => Err(io::Error::other(format!(
                "a format that modules do not have: decompress it first, with `{}`",
                self.program()
            ))),
        }
    }
}

fn read(decoder: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    decoder.take(limit + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > limit {
        return Err(io::Error::other(format!("it holds more than {} MiB", limit >> 20)));
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text "nmiscope\n", compressed by `gzip`, `xz` and `zstd`, each through `xxd -p`.
    const FILES: [&str; 3] = [GZIP, XZ, ZSTANDARD];
    const GZIP: &str = "1f8b0800000000000003cbcbcd2c4ece2f48e50200cf79a7bb09000000";
    const XZ: &str = "fd377a585a000004e6d6b4460200210116000000742fe5a30100086e6d6973636f70650a00000000248d9c450d4ab1a4000121096c18c5d51fb6f37d010000000004595a";
    const ZSTANDARD: &str = "28b52ffd04584900006e6d6973636f70650a715321e5";

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
            .collect()
    }

    #[test]
    fn files_by_gzip_xz_and_zstd_are_decompressed() {
        for hex in FILES {
            let file = bytes(hex);
            let format = Compression::detect(&file).expect("a format");
            assert_eq!(format.decompress(&file).expect("contents"), b"nmiscope\n", "{format:?}");
        }
    }

    #[test]
    fn damaged_files_are_errors() {
        for hex in FILES {
            let file = bytes(hex);
            let format = Compression::detect(&file).expect("a format");
            assert!(format.decompress(&file[..file.len() - 9]).is_err(), "{format:?}");
        }
    }

    #[test]
    fn an_elf_file_is_not_taken_for_compressed() {
        assert_eq!(Compression::detect(b"\x7fELF"), None);
        assert_eq!(Compression::detect(b""), None);
    }
}
