//! The images of a guest that this program did not start: found by what the guest's memory says of its kernel.
//!
//! Owns the choice between a kernel that describes itself in memory, for which images add lines (`kernel_files`), and
//! one that is known by its image alone; and, for the latter, the comparison of build-ids at the address where
//! the image has its own. Refuses to own opening files (`images`). Called for dumps and running VMs (`dump`, `attach`).

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;
use nmiscope_machine::{GuestVirtual, PhysicalMemory, VirtualMemory};
use nmiscope_symbolizer::Image;

pub use super::kernel_files::ImageSearch;
use super::kernel_files::KernelFiles;
use super::stack_choice::StackChoice;
use super::visit::{Images, NO_VARIABLES_WITHOUT_IMAGE, Visitor};
use crate::images::{Access, DebugSearch, Files, hex};
use crate::kernel::{self, KernelAdapter};
use crate::targets::Target;

/// Files of a guest's image, and its path; `None` for the bundled guest's image, which has no file.
type FoundImage = (Files, Option<PathBuf>);

/// The kernel and the image files of a guest.
pub struct GuestImages {
    /// The kernel if it describes itself in the guest's memory, or else the guest's state if there is no image.
    kernel: Option<Rc<dyn KernelAdapter>>,
    files: OpenFiles,
    warnings: Vec<String>,
}

enum OpenFiles {
    None,
    Whole(Box<Files>, Option<PathBuf>),
    Parts(Box<KernelFiles>),
}

impl GuestImages {
    /// Recognises the kernel in a guest's memory, and opens the files that the user names or that are found.
    /// `in_memory` is false for a target whose memory is too slow to look for a kernel in it. `warnings` are those of
    /// the target.
    ///
    /// # Errors
    /// A named file cannot be read, or the guest runs another one.
    pub fn open(
        target: &dyn Target,
        search: ImageSearch<'_>,
        in_memory: bool,
        mut warnings: Vec<String>,
    ) -> anyhow::Result<Self> {
        let kernel = if in_memory { recognise_in_memory(target) } else { None };
        let files = match kernel.as_ref().map(|kernel| kernel.parts(target)) {
            Some(Some(parts)) => {
                OpenFiles::Parts(Box::new(KernelFiles::find(parts, search, &mut warnings)?))
            }
            Some(None) => OpenFiles::None,
            None => match open_whole(target, search, &mut warnings)? {
                Some((files, path)) => OpenFiles::Whole(Box::new(files), path),
                None => OpenFiles::None,
            },
        };
        warnings.extend(kernel.iter().flat_map(|kernel| kernel.missing_parts()));
        let kernel = match (kernel, &files) {
            (None, OpenFiles::None) => Some(state_of(target, in_memory).into()),
            (kernel, _) => kernel,
        };
        Ok(Self { kernel, files, warnings })
    }

    /// Returns true for a kernel that describes itself in the guest's memory.
    pub fn has_kernel_in_memory(&self) -> bool {
        matches!(self.files, OpenFiles::Parts(_))
    }

    /// Makes a visitor to the guest.
    pub fn visitor(&self, stacks: StackChoice) -> Visitor<'_> {
        let mut warnings = self.warnings.clone();
        let (images, path, build_id) = match &self.files {
            OpenFiles::None => (Images::None, None, None),
            OpenFiles::Whole(files, path) => match files.parse() {
                Ok(image) => {
                    let build_id = image.build_id().map(hex);
                    (Images::Whole(Box::new(image)), path.clone(), build_id)
                }
                Err(_) => (Images::None, path.clone(), None),
            },
            OpenFiles::Parts(files) => {
                if stacks.variables && !files.has_kernel() {
                    warnings.push(NO_VARIABLES_WITHOUT_IMAGE.into());
                }
                let path = files.path().map(Path::to_owned);
                (Images::Parts(files.images()), path, files.build_id().map(hex))
            }
        };
        let kernel = match (&self.kernel, &images) {
            (Some(kernel), _) => Rc::clone(kernel),
            (None, Images::Whole(image)) => kernel::recognise(image).into(),
            (None, _) => kernel::unknown("its image cannot be read".into()).into(),
        };
        Visitor::new(kernel, images, stacks, warnings).with_origin(path, build_id)
    }
}

/// Recognises a kernel that describes itself in the target's memory; `None` if there is none.
fn recognise_in_memory(target: &dyn Target) -> Option<Rc<dyn KernelAdapter>> {
    let states = target.states(&Vec::from_iter(0..target.vcpus()), Duration::ZERO);
    let registers: Vec<_> = states.into_iter().flatten().map(|state| state.registers).collect();
    Some(kernel::recognise_in_memory(target, &registers)?.into())
}

/// Describes the state of a guest in place of a kernel. Its memory is searched for it where `reads_memory` is true.
fn state_of(target: &dyn Target, reads_memory: bool) -> Box<dyn KernelAdapter> {
    let states = target.states(&Vec::from_iter(0..target.vcpus()), Duration::ZERO);
    let states: Vec<_> = states.into_iter().flatten().collect();
    let memory = reads_memory.then_some(target as &dyn PhysicalMemory);
    kernel::unrecognised(&states, memory)
}

/// Opens the image named by the user, or else searches for it, with its debug file. Returns `None`, and
/// adds a warning, if no image is found.
///
/// # Errors
/// The named file cannot be read, or the guest runs another one; or several are named.
fn open_whole(
    target: &dyn Target,
    search: ImageSearch<'_>,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Option<FoundImage>> {
    let found = match search.named {
        [path] => Some(open_named(path, target, warnings)?),
        [] => search_for_image(target, search.debug, warnings)?,
        [_, second, ..] => bail!(
            "{} cannot be used: no kernel that describes itself was found in the guest's memory, and modules are \
             looked up by what it says of them",
            second.display()
        ),
    };
    Ok(found.map(|(mut files, path)| {
        files.find_debug_files(path.as_deref(), search.debug);
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
            "{shown} is another image, or KASLR moved its kernel: the guest's memory has no build-id where the \
             image has its own, and no kernel that describes itself was found in it"
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
fn search_for_image(
    target: &dyn Target,
    search: &DebugSearch,
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
        let found = Files::find(Some(&id), None, None, search)?;
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
