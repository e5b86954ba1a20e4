//! Ends of files that a guest can make arbitrarily long.
//!
//! Owns the bound on reading; refuses to own the use of the text. Called by `examine` and `junit`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// The last bytes of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Tail {
    /// Bytes up to the end of the file.
    pub bytes: Vec<u8>,
    /// True if the bytes are the whole file.
    pub is_all: bool,
}

/// Reads the last `most` bytes of a file.
///
/// # Errors
/// Fails if the file cannot be read.
pub fn read_tail(path: &Path, most: u64) -> io::Result<Tail> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(Tail { bytes, is_all: length <= most })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_tail_returns_the_last_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        std::fs::write(&path, "first\nlast\n").unwrap();
        assert_eq!(read_tail(&path, 5).unwrap(), Tail { bytes: b"last\n".to_vec(), is_all: false });
        assert_eq!(
            read_tail(&path, 11).unwrap(),
            Tail { bytes: b"first\nlast\n".to_vec(), is_all: true }
        );
    }
}
