//! Tests of the file that a core is written to.

use std::cell::Cell;
use std::fs::Permissions;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;

use nmiscope::elf_core::{self, Core, CoreContents};
use nmiscope_machine::{PhysicalAddress, PhysicalMemory, ReadError};

use super::support::*;

/// Memory of unlimited size in which one page is not zero.
struct Vast;

impl PhysicalMemory for Vast {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        assert!(buffer.len() <= 64 << 10, "memory is not to be copied at once");
        buffer.fill(0);
        let within = 0x1234_5000_u64.checked_sub(address.0);
        if let Some(byte) = within.and_then(|within| buffer.get_mut(within as usize)) {
            *byte = 7;
        }
        Ok(())
    }
}

#[test]
fn pages_of_zeros_take_no_space_on_the_disk() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("core");
    let extents = extents(&[(0, 1 << 30)]);
    let sample = sample();
    let contents = CoreContents { extents: &extents, views: &[], ..sample.contents() };
    let written = elf_core::write_path(&path, &contents, &Vast).expect("a core");
    assert_eq!(written.memory_bytes, PAGE);
    let metadata = path.metadata().expect("a file");
    assert_eq!(metadata.len(), written.bytes);
    assert!(metadata.len() > 1 << 30);
    assert!(metadata.blocks() * 512 < 256 << 10, "{} blocks", metadata.blocks());
}

#[test]
fn a_failed_core_leaves_the_older_file_and_no_other() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let names = || -> Vec<_> {
        let entries = folder.path().read_dir().expect("a directory");
        entries.map(|entry| entry.expect("an entry").file_name()).collect()
    };
    let path = folder.path().join("core");
    std::fs::write(&path, "older").expect("a file");
    let sample = sample();
    let memory = Flaky(Cell::new(0));
    let error = elf_core::write_path(&path, &sample.contents(), &memory).expect_err("no memory");
    assert_eq!(
        error.to_string(),
        "failed to read the guest's memory: it goes away while it is read"
    );
    assert_eq!(std::fs::read(&path).expect("the file"), b"older");
    assert_eq!(names(), ["core"]);
    elf_core::write_path(&path, &sample.contents(), &sample.memory).expect("a core");
    assert!(Core::parse(&std::fs::read(&path).expect("the file")).is_ok());
    assert_eq!(names(), ["core"]);

    let missing = folder.path().join("no/core");
    let error = elf_core::write_path(&missing, &sample.contents(), &sample.memory)
        .expect_err("there is no such folder");
    assert_eq!(error.to_string(), format!("failed to make a file beside {}", missing.display()));
}

#[test]
fn a_core_replaces_only_regular_files() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let socket = folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let link = folder.path().join("link");
    symlink(&socket, &link).expect("a link");
    let sample = sample();
    for path in [folder.path(), &socket, &link] {
        let expected = format!("failed to make {}: what is there is not a file", path.display());
        let error = elf_core::check_path(path).expect_err("no file");
        assert_eq!(error.to_string(), expected);
        let error = elf_core::write_path(path, &sample.contents(), &sample.memory);
        assert_eq!(error.expect_err("no file").to_string(), expected);
    }
    assert!(socket.metadata().expect("the socket").file_type().is_socket());

    let path = folder.path().join("core");
    elf_core::check_path(&path).expect("it can be written");
    assert!(!path.exists());
    std::fs::remove_file(&link).expect("the link");
    symlink("core", &link).expect("a link");
    std::fs::write(&path, "older").expect("a file");
    elf_core::write_path(&link, &sample.contents(), &sample.memory).expect("a core");
    assert!(link.is_symlink());
    assert!(Core::parse(&std::fs::read(&path).expect("the file")).is_ok());
}

#[test]
fn core_in_place_of_a_public_file_is_private() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("core");
    std::fs::write(&path, "older").expect("a file");
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("permissions");
    let sample = sample();
    elf_core::write_path(&path, &sample.contents(), &sample.memory).expect("a core");
    assert_eq!(path.metadata().expect("a file").mode() & 0o777, 0o600);
}

/// Memory in which another page becomes unreadable each time that page 32 is read.
struct Flaky(Cell<u64>);

impl PhysicalMemory for Flaky {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len();
        let pages = address.0 / PAGE..(address.0 + length as u64).div_ceil(PAGE);
        let gone = self.0.get();
        self.0.set(gone + u64::from(pages.contains(&32)));
        buffer.fill(1);
        if pages.contains(&gone) { Err(ReadError::Unbacked { address, length }) } else { Ok(()) }
    }
}
