//! The line from a VM's process to its farm: the process's standard output, which is a pipe.
//!
//! A line feed says that the guest has ended, and what follows is the error that ended the process. The
//! error comes this way because the process's own files may be on a full disk.
//!
//! Owns both ends; refuses to own the processes (`process`). Called by the runner and, in the VM's process,
//! by the command line.

use std::io::{self, Read, Write};

/// Byte that says that the guest has ended.
const GUEST_ENDED: u8 = b'\n';

/// Largest error that is read, in bytes.
const MAX_ERROR: u64 = 4096;

/// Tells the farm that the guest has ended, and that this process only cleans up.
pub fn send_guest_ended() {
    send(&[GUEST_ENDED]);
}

/// Tells the farm the error that ends this process.
pub fn send_error(error: &str) {
    // The guest has ended in any case.
    send(&[&[GUEST_ENDED], error.as_bytes()].concat());
}

fn send(bytes: &[u8]) {
    let mut stdout = io::stdout();
    // A farm that is gone needs no message.
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// Waits until the guest has ended, or its process has.
pub fn wait_for_guest(line: &mut impl Read) {
    // Only the arrival counts, whether or not the read fails.
    let _ = line.read_exact(&mut [0]);
}

/// Waits until the process has closed the line, and returns its error as one line; `None` if it sent none.
pub fn receive_error(line: &mut impl Read) -> Option<String> {
    let mut error = Vec::new();
    let _ = Read::by_ref(line).take(MAX_ERROR).read_to_end(&mut error);
    let _ = io::copy(line, &mut io::sink());
    let error = String::from_utf8_lossy(&error);
    let words: Vec<&str> = error.split_whitespace().collect();
    (!words.is_empty()).then(|| words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(mut line: &[u8]) -> Option<String> {
        wait_for_guest(&mut line);
        receive_error(&mut line)
    }

    #[test]
    fn error_follows_the_end_of_the_guest() {
        assert_eq!(received(b"\n"), None);
        assert_eq!(received(b""), None);
        assert_eq!(
            received(b"\n\nfailed to write:\nno space"),
            Some("failed to write: no space".into())
        );
    }

    #[test]
    fn long_errors_are_cut() {
        let long = [b"\n".as_slice(), &[b'x'; 100_000]].concat();
        assert_eq!(received(&long).map(|error| error.len() as u64), Some(MAX_ERROR));
    }
}
