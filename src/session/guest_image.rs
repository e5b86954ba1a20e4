//! The image of a guest that this program did not start, recognised by the build-id in guest memory.
//!
//! Owns the comparison of build-ids, at the address where the image has its own. Refuses to own opening
//! files (`images`). Called for dumps and running VMs (`dump`, `attach`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use nmiscope_machine::{GuestVirtual, VirtualMemory};
use nmiscope_symbolizer::Image;

use crate::images::{Access, Files, hex};
use crate::targets::Target;

/// Files of a guest's image, and its path; `None` for the bundled guest's image, which has no file.
pub type FoundImage = (Files, Option<PathBuf>);

/// Opens the image named by the user, or else searches for it, with its debug file. Returns `None`, and
/// adds a warning, if no image is found.
///
/// # Errors
/// `image` cannot be read, or the guest runs another one.
pub fn open(
    target: &dyn Target,
    image: Option<&Path>,
    debug_directory: &Path,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Option<FoundImage>> {
    let found = match image {
        Some(path) => Some(open_named(path, target, warnings)?),
        None => search(target, debug_directory, warnings)?,
    };
    Ok(found.map(|(mut files, path)| {
        files.find_debug_file(path.as_deref(), debug_directory);
        (files, path)
    }))
}

/// Opens the image named by the user, and checks that the guest does not run another one.
fn open_named(
    path: &Path,
    target: &dyn Target,
    warnings: &mut Vec<String>,
) -> anyhow::Result<FoundImage> {
    let files = Files::open(Some(path), Access::Map)?;
    let shown = path.display();
    match files.parse().map(|image| build_id_in_memory(&image, target)) {
        Ok(BuildIdCheck::Same) => {}
        Ok(BuildIdCheck::Other(id)) => {
            bail!("{shown} is another image: the guest runs the one with build-id {}", hex(&id))
        }
        Ok(BuildIdCheck::NoNote) => bail!(
            "{shown} is another image, or KASLR moved its kernel, which is not supported \
             yet: the guest's memory has no build-id where the image has its own; without --image the report \
             has registers and addresses"
        ),
        Ok(BuildIdCheck::Unchecked(reason)) => {
            warnings.push(format!("{shown} may be another image than the one that ran: {reason}"));
        }
        Err(error) => bail!("{shown} cannot be used: {}", crate::error_chain(&error)),
    }
    Ok((files, Some(path.to_owned())))
}

/// Searches for the guest's image: the bundled guest's if memory has its build-id, else the debug file with
/// the build-id found in its place. Returns `None`, and adds a warning, if neither is found.
fn search(
    target: &dyn Target,
    debug_directory: &Path,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Option<FoundImage>> {
    // A build without KVM has no bundled guest.
    let bundled = Files::open(None, Access::Map).ok();
    let image = bundled.as_ref().and_then(|bundled| bundled.parse().ok());
    let seen = image.map(|image| build_id_in_memory(&image, target));
    if let (Some(BuildIdCheck::Same), Some(bundled)) = (&seen, bundled) {
        return Ok(Some((bundled, None)));
    }
    if let Some(BuildIdCheck::Unchecked(reason)) = &seen {
        warnings.push(format!("the guest's image is unknown: {reason}; name it with --image"));
        return Ok(None);
    }
    if let Some(BuildIdCheck::Other(id)) = seen {
        let found = Files::find(Some(&id), None, None, debug_directory)?;
        if found.is_none() {
            let id = hex(&id);
            warnings
                .push(format!("the image with build-id {id} was not found: name it with --image"));
        }
        return Ok(found);
    }
    warnings.push(
        "the guest's image is unknown: name it with --image for functions, stacks and the \
         kernel's state"
            .into(),
    );
    Ok(None)
}

/// Content of guest memory at the address where an image has its build-id.
enum BuildIdCheck {
    /// The build-id of the image itself.
    Same,
    /// The build-id of another image.
    Other(Vec<u8>),
    /// Mapped memory without a build-id note.
    NoNote,
    /// No readable memory, for this reason.
    Unchecked(Unchecked),
}

/// Reason why the guest's image could not be checked.
#[derive(Debug, thiserror::Error)]
enum Unchecked {
    #[error("the image has no build-id that is loaded")]
    NoBuildId,
    #[error("no vCPU has page tables, which are needed to find its build-id")]
    NoPageTables,
    #[error("its build-id is not in the guest's memory")]
    NotMapped,
}

/// Compares the image's build-id with guest memory, in the address space of each vCPU.
fn build_id_in_memory(image: &Image<'_>, target: &dyn Target) -> BuildIdCheck {
    /// Size of the note's header in bytes: namesz, descsz, type and the name "GNU" (gABI, "Note Section").
    const HEADER: usize = 16;
    const NT_GNU_BUILD_ID: u32 = 3;
    let address = image.build_id_address().and_then(|at| at.checked_sub(HEADER as u64));
    let (Some(id), Some(address)) = (image.build_id(), address) else {
        return BuildIdCheck::Unchecked(Unchecked::NoBuildId);
    };
    let states = target.states(&Vec::from_iter(0..target.vcpus()), Duration::ZERO);
    let mut best = BuildIdCheck::Unchecked(Unchecked::NoPageTables);
    for tables in states.iter().flatten().filter_map(|state| state.registers.page_tables().ok()) {
        let mut note = vec![0; HEADER + id.len()];
        if GuestVirtual::new(target, tables).read(address, &mut note).is_err() {
            if matches!(best, BuildIdCheck::Unchecked(_)) {
                best = BuildIdCheck::Unchecked(Unchecked::NotMapped);
            }
            continue;
        }
        let header = [4, id.len() as u32, NT_GNU_BUILD_ID, u32::from_le_bytes(*b"GNU\0")];
        let expected = header.iter().flat_map(|word| word.to_le_bytes());
        let (header, found) = note.split_at(HEADER);
        if !expected.eq(header.iter().copied()) {
            best = BuildIdCheck::NoNote;
        } else if found == id {
            return BuildIdCheck::Same;
        } else {
            return BuildIdCheck::Other(found.to_vec());
        }
    }
    best
}
