//! Files of a kernel that was found in a guest's memory, and of its modules.
//!
//! Owns the match of files to the parts of a kernel: by build-id, or by name with a warning where memory has none. Refuses
//! to own opening files (`images`), and lookups in them (`kernel::with_images`). Called by `guest_image`.
//!
//! Files that the user names are checked at once. Others are looked for where distributions put them: below a directory
//! of debug files, by build-id or by the kernel's release. Modules of those are read when an address needs them.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use anyhow::bail;
use nmiscope_symbolizer::is_relocatable;

use crate::images::modules::{self, Modules};
use crate::images::{Access, DebugSearch, Files, build_id_path, hex, open};
use crate::kernel::{KernelImages, KernelPart, KernelParts, PlacedImage};

/// Files that a user names for a guest, and where others are looked for.
#[derive(Debug, Clone, Copy)]
pub struct ImageSearch<'a> {
    /// Images and modules that the user names.
    pub named: &'a [PathBuf],
    /// Places where separate debug files are looked for.
    pub debug: &'a DebugSearch,
}

/// Open files of a kernel in memory.
pub struct KernelFiles {
    parts: KernelParts,
    kernel: Option<Files>,
    /// Path of the kernel's file; `None` where there is none.
    path: Option<PathBuf>,
    modules: Modules,
    /// Names of the modules whose files the user named.
    named: Vec<String>,
}

impl KernelFiles {
    /// Finds the files of a kernel's parts. Files that were not found are no error: symbols remain.
    ///
    /// # Errors
    /// A named file cannot be read, or belongs to no part of this kernel.
    pub fn find(
        parts: KernelParts,
        search: ImageSearch<'_>,
        warnings: &mut Vec<String>,
    ) -> anyhow::Result<Self> {
        let (mut kernel, mut files) = (None, Vec::new());
        for path in search.named {
            if is_module(path)? {
                files.extend(named_module(path, &parts, warnings)?);
            } else if kernel.is_some() {
                bail!("{} is a second image: a guest runs one kernel", path.display());
            } else {
                kernel = Some((named_kernel(path, &parts.kernel, warnings)?, path.clone()));
            }
        }
        let named = files.iter().map(|(name, _)| name.clone()).collect();
        let search = search.debug;
        let found = kernel.or_else(|| debug_kernel(&parts, search));
        let (kernel, path) = found
            .map(|(mut files, path)| {
                files.find_debug_files(Some(&path), search);
                (files, path)
            })
            .unzip();
        files.extend(parts.modules.iter().filter_map(|(name, part)| {
            let path = PathBuf::from(build_id_path(part.build_id.as_deref()?)? + ".debug");
            let path = search.places(&path).find(|path| path.is_file())?;
            Some((name.clone(), path))
        }));
        let roots = release_directory(&parts.release);
        let roots = roots.map(|release| Path::new("lib/modules").join(release));
        let roots = roots.iter().flat_map(|root| search.places(root)).filter(|root| root.is_dir());
        let roots = roots.collect();
        let sections: BTreeMap<String, modules::Sections> = parts
            .modules
            .iter()
            .filter(|(_, part)| !part.sections.is_empty())
            .map(|(name, part)| (modules::canonical(name), part.sections.clone()))
            .collect();
        let modules = Modules::new(roots, search).with_files(files).at(sections);
        Ok(Self { parts, kernel, path, modules, named })
    }

    /// Returns the path of the kernel's file; `None` where there is none.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Returns the build-id that the guest's memory has for its kernel.
    pub fn build_id(&self) -> Option<&[u8]> {
        self.parts.kernel.build_id.as_deref()
    }

    /// Returns true if the kernel's file was found.
    pub fn has_kernel(&self) -> bool {
        self.kernel.is_some()
    }

    /// Prepares the images of all parts; each is opened at the first address in it.
    pub fn images(&self) -> KernelImages<'_> {
        let mut images = KernelImages::default();
        let kernel = &self.parts.kernel;
        if let Some(files) = &self.kernel {
            let open = || {
                let image = files.parse().ok()?;
                let bias = kernel.bias(&image)?;
                Some(PlacedImage { image, bias })
            };
            images.add(kernel.text.clone(), Box::new(open));
        }
        for (name, part) in &self.parts.modules {
            images.add(part.text.clone(), Box::new(|| self.open_module(name, part)));
        }
        images
    }

    /// Opens a module's file: the first whose build-id is that in memory. Without one a file that the user named is
    /// believed.
    fn open_module(&self, name: &str, part: &KernelPart) -> Option<PlacedImage<'_>> {
        let files = self.modules.named(name).into_iter().filter_map(Result::ok);
        let mut files = files.filter(|file| match (&part.build_id, file.image.build_id()) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => self.named.iter().any(|named| named == name),
        });
        let image = files.next()?.image;
        // With its sections known it was laid out at their addresses.
        let bias = if part.sections.is_empty() { part.bias(&image)? } else { 0 };
        Some(PlacedImage { image, bias })
    }
}

/// Returns true if a file is that of a module, by its name or its contents.
fn is_module(path: &Path) -> anyhow::Result<bool> {
    Ok(module_name(path).is_some() || is_relocatable(&open(path, Access::Map)?))
}

/// Returns the name of the module in a file of this name; `None` for any other name.
fn module_name(path: &Path) -> Option<String> {
    modules::module_name(path.file_name()?.to_str()?)
}

/// Finds the module that a named file belongs to. A module that the guest has not loaded gives a warning.
fn named_module(
    path: &Path,
    parts: &KernelParts,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Option<(String, PathBuf)>> {
    let shown = path.display();
    let id = modules::build_id(path)?;
    let same_id = |(_, part): &&(String, KernelPart)| id.is_some() && part.build_id == id;
    if let Some((name, _)) = parts.modules.iter().find(same_id) {
        return Ok(Some((name.clone(), path.to_owned())));
    }
    let wanted = module_name(path);
    let same_name = |(name, _): &&(String, KernelPart)| Some(modules::canonical(name)) == wanted;
    let Some((name, part)) = parts.modules.iter().find(same_name) else {
        warnings.push(format!("{shown} is not used: the guest has no such module"));
        return Ok(None);
    };
    match (&id, &part.build_id) {
        (Some(id), Some(loaded)) => bail!(
            "{shown} is another build of the module {name}: its build-id is {}, and the guest has loaded {}",
            hex(id),
            hex(loaded)
        ),
        _ => warnings.push(format!(
            "{shown} may be another build of the module {name} than the guest has loaded: no build-id tells"
        )),
    }
    Ok(Some((name.clone(), path.to_owned())))
}

/// Opens a named file as that of the kernel, and checks that it is.
fn named_kernel(
    path: &Path,
    part: &KernelPart,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Files> {
    let shown = path.display();
    let files = Files::open(Some(path), Access::Map)?;
    let image = match files.parse() {
        Ok(image) => image,
        Err(error) => bail!("{shown} cannot be used: {}", crate::error_chain(&error)),
    };
    match (image.build_id(), &part.build_id) {
        (Some(id), Some(running)) if id == running => {}
        (Some(id), Some(running)) => bail!(
            "{shown} is another image: its build-id is {}, and the guest runs {}",
            hex(id),
            hex(running)
        ),
        _ if part.bias(&image).is_none() => bail!(
            "{shown} is another image: its symbols do not fit those in the guest's memory, and no build-id tells"
        ),
        _ => warnings.push(format!(
            "{shown} may be another image than the one that runs: no build-id tells"
        )),
    }
    drop(image);
    Ok(files)
}

/// Finds the kernel's file in the directories of debug files: by its build-id, or by its release at the
/// places that distributions use, if the build-id there is the same. A server is asked last.
fn debug_kernel(parts: &KernelParts, search: &DebugSearch) -> Option<(Files, PathBuf)> {
    let id = parts.kernel.build_id.as_deref()?;
    let by_release = release_directory(&parts.release).into_iter().flat_map(|release| {
        [
            format!("boot/vmlinux-{release}"),
            format!("lib/modules/{release}/vmlinux"),
            format!("lib/modules/{release}/vmlinux.debug"),
        ]
    });
    let by_id = build_id_path(id).into_iter().flat_map(|path| [path.clone() + ".debug", path]);
    let names: Vec<PathBuf> = by_id.chain(by_release).map(PathBuf::from).collect();
    let places = search
        .directories
        .iter()
        .flat_map(|directory| names.iter().map(move |name| directory.join(name)));
    let downloaded = || search.download(id);
    places.chain(std::iter::once_with(downloaded).flatten()).find_map(|path| {
        let files = Files::open(Some(&path), Access::Map).ok()?;
        let is_it = files.parse().is_ok_and(|image| image.build_id() == Some(id));
        is_it.then_some((files, path))
    })
}

/// Returns a kernel's release as part of a path; `None` where it would lead elsewhere. It is the guest's word.
fn release_directory(release: &str) -> Option<&str> {
    let mut components = Path::new(release).components();
    let is_name = matches!(components.next(), Some(Component::Normal(_)));
    (is_name && components.next().is_none() && !release.contains('/')).then_some(release)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nmiscope_machine::VirtualAddress;
    use nmiscope_symbolizer::Image;

    use super::*;

    /// Distance by which the guest of these tests has moved its kernel, and the address of its module's code.
    const BIAS: u64 = 0x2c00_0000;
    const MODULE_TEXT: u64 = 0xffff_ffff_c012_3000;

    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
    }

    fn linux(name: &str) -> PathBuf {
        file("linux_logs/fixtures/61").join(name)
    }

    /// A guest that runs the kernel of tests/linux_logs and has loaded its module. Neither file has a build-id.
    fn parts() -> KernelParts {
        let moved = |name: &str, linked: u64| (name.to_owned(), VirtualAddress(linked + BIAS));
        let kernel = KernelPart {
            symbols: vec![
                moved("_stext", 0xffff_ffff_8100_0000),
                moved("_etext", 0xffff_ffff_81e0_1ef2),
            ],
            ..KernelPart::default()
        };
        let sections = vec![(".text".to_owned(), VirtualAddress(MODULE_TEXT))];
        let module = KernelPart { sections, ..KernelPart::default() };
        KernelParts { release: "6.1.0".into(), kernel, modules: vec![("logmod".into(), module)] }
    }

    /// Finds files and returns them with the warnings.
    fn find(
        parts: KernelParts,
        named: &[PathBuf],
        debug_directory: &Path,
    ) -> anyhow::Result<(KernelFiles, Vec<String>)> {
        let mut warnings = Vec::new();
        let debug = DebugSearch::in_directories(&[debug_directory.to_owned()]);
        let search = ImageSearch { named, debug: &debug };
        let files = KernelFiles::find(parts, search, &mut warnings)?;
        Ok((files, warnings))
    }

    #[track_caller]
    fn refused(parts: KernelParts, named: &[PathBuf]) -> String {
        match find(parts, named, Path::new("/nonexistent")) {
            Ok((_, warnings)) => panic!("not refused: {warnings:?}"),
            Err(error) => error.to_string(),
        }
    }

    fn own_build_id() -> Vec<u8> {
        let bytes = fs::read(file("offline/guest.elf")).expect("an image");
        Image::parse(&bytes).expect("an image").build_id().expect("a build-id").to_vec()
    }

    #[test]
    fn files_without_build_ids_are_believed_by_name_and_symbols_with_warnings() {
        let named = [linux("modules/logmod.ko"), linux("vmlinux.elf")];
        let (files, warnings) = find(parts(), &named, Path::new("/nonexistent")).expect("files");
        assert_eq!(files.path(), Some(&*named[1]));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        let (name, part) = &files.parts.modules[0];
        let module = files.open_module(name, part).expect("a module");
        let first = module.image.symbol("fill").expect("a symbol").address;
        assert_eq!((module.bias, first), (0, VirtualAddress(MODULE_TEXT)));
        // Where the guest does not say where the sections are, a symbol gives the distance.
        let mut other = parts();
        let symbol = ("fill".to_owned(), VirtualAddress(MODULE_TEXT));
        other.modules[0].1 = KernelPart { symbols: vec![symbol], ..KernelPart::default() };
        let (files, _) = find(other, &named, Path::new("/nonexistent")).expect("files");
        let (name, part) = &files.parts.modules[0];
        let module = files.open_module(name, part).expect("a module");
        let first = module.image.symbol("fill").expect("a symbol").address;
        assert_eq!(first.wrapping_add(module.bias), VirtualAddress(MODULE_TEXT));
    }

    #[test]
    fn image_with_another_build_id_is_refused_with_both() {
        let image = file("offline/guest.elf");
        let mut other = parts();
        other.kernel.build_id = Some(vec![0xab; 20]);
        let message = refused(other, std::slice::from_ref(&image));
        for id in [hex(&own_build_id()), "ab".repeat(20)] {
            assert!(message.contains(&id), "{message}");
        }
        // Its symbols are not where the guest has those of its own kernel.
        let message = refused(parts(), std::slice::from_ref(&image));
        assert!(message.contains("another image"), "{message}");
        let message = refused(parts(), &[linux("vmlinux.elf"), image]);
        assert!(message.contains("second image"), "{message}");
    }

    #[test]
    fn module_that_is_not_loaded_is_left_out() {
        let mut other = parts();
        other.modules[0].0 = "virtio_net".into();
        let named = [linux("modules/logmod.ko")];
        let (files, warnings) = find(other, &named, Path::new("/nonexistent")).expect("files");
        assert!(files.named.is_empty());
        assert!(warnings[0].contains("no such module"), "{warnings:?}");
    }

    #[test]
    fn debug_directory_has_the_kernel_by_build_id_and_by_release() {
        let id = own_build_id();
        for place in [build_id_path(&id).expect("a path") + ".debug", "boot/vmlinux-6.1.0".into()] {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join(place);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::copy(file("offline/guest.elf"), &path).expect("a copy");
            let mut other = parts();
            other.kernel.build_id = Some(id.clone());
            let (files, _) = find(other.clone(), &[], directory.path()).expect("files");
            assert_eq!(files.path(), Some(&*path));
            // A file of that name is not enough.
            other.kernel.build_id = Some(vec![0xab; 20]);
            let (files, _) = find(other, &[], directory.path()).expect("files");
            assert_eq!(files.path(), None);
        }
    }

    #[test]
    fn release_that_is_no_name_leads_nowhere() {
        assert_eq!(release_directory("6.1.0-56-cloud-amd64"), Some("6.1.0-56-cloud-amd64"));
        for release in ["", ".", "..", "../etc", "/etc", "a/b", "a/"] {
            assert_eq!(release_directory(release), None, "{release:?}");
        }
    }
}
