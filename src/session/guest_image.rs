//! Which image a guest runs that somebody else started: the one whose build-id is in its memory.
//!
//! Owns the comparison, by the address at which an image has its build-id. Called for dumps and for
//! running VMs alike.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use nmiscope_machine::{GuestVirtual, VirtualMemory};
use nmiscope_symbolizer::Image;

use crate::images::{Access, Files, hex};
use crate::targets::Target;

/// The image of a guest and, but for the bundled guest's, its path.
pub type FoundImage = (Files, Option<PathBuf>);

/// The image that the user names, or else the one that is found, with its debug file.
///
/// # Errors
/// `image` cannot be read, or is not the one in memory.
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

/// The image that the user names, if it is not another one than the guest's.
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
            bail!("{shown} is another image: the one with build-id {} is wanted", hex(&id))
        }
        Ok(BuildIdCheck::NoNote) => bail!(
            "{shown} is another image, or its kernel was moved (KASLR), which is not undone \
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

/// The bundled guest's image if its build-id is in memory at its place, or the one that is there among
/// the debug files.
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
        warnings.push(format!(
            "which image the guest runs is not known: {reason}; name it with --image"
        ));
        return Ok(None);
    }
    if let Some(BuildIdCheck::Other(id)) = seen {
        let found = Files::find(Some(&id), None, None, debug_directory)?;
        if found.is_none() {
            let id = hex(&id);
            warnings.push(format!(
                "the image with build-id {id} is not to be found: name it with --image"
            ));
        }
        return Ok(found);
    }
    warnings.push(
        "which image the guest runs is not known: name it with --image for functions, stacks and the \
         kernel's state"
            .into(),
    );
    Ok(None)
}

/// A guest's memory at the place where an image has its build-id.
enum BuildIdCheck {
    /// The image's own build-id.
    Same,
    /// Another image's build-id.
    Other(Vec<u8>),
    /// Mapped memory without a note of a build-id.
    NoNote,
    /// No memory to look at.
    Unchecked(Unchecked),
}

/// The reason why it is not known which image a guest ran.
#[derive(Debug, thiserror::Error)]
enum Unchecked {
    #[error("the image has no build-id that is loaded")]
    NoBuildId,
    #[error("no vCPU has page tables to look for its build-id by")]
    NoPageTables,
    #[error("its build-id is not in the guest's memory")]
    NotMapped,
}

/// Looks for the image's build-id in the address space of each vCPU.
fn build_id_in_memory(image: &Image<'_>, target: &dyn Target) -> BuildIdCheck {
    /// namesz, descsz, type and the name "GNU" before it (gABI, "Note Section").
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
