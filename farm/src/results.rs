//! The results directory: its layout, its lock, and the results of an earlier run in it.
//!
//! ```text
//! farm.lock           held by the running farm; contains its process number
//! events.jsonl        the journal
//! index.html          the page of the run: groups of failures, and all VMs with links to their files
//! vms/NAME/RUN.TRY/   the files of one try: console.log report.json report.txt report.html
//!                     hang.core stderr.log
//! SIGNATURE           a link to the first try that hung in this way
//! ```
//!
//! Owns these names and the match of earlier results with a suite; refuses to own the contents of the
//! files (`journal`, `process`). Called by the runner and the command line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use super::event::{EventKind, FarmEvent, Id, Status, VmFinished};
use super::journal::{self, Journal};
use super::suite::SuiteVm;

/// The guest bundled with the program, run by VMs without an image; its hash recognises another program's
/// guest.
#[derive(Debug)]
pub struct BundledGuest {
    image: &'static [u8],
    digest: OnceLock<[u8; 32]>,
}

impl BundledGuest {
    /// Wraps the image of the bundled guest.
    pub fn new(image: &'static [u8]) -> Self {
        Self { image, digest: OnceLock::new() }
    }

    /// Returns the SHA-256 of the image, computed on first use because it takes a while.
    fn digest(&self) -> &[u8; 32] {
        self.digest.get_or_init(|| Sha256::digest(self.image).into())
    }
}

/// Reason why a results directory was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is not for this run: the user has to name another one.
    #[error("{0:#}")]
    Refused(anyhow::Error),
    /// The journal in the directory could not be read or written.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

const LOCK: &str = "farm.lock";

/// File of the page of a run, in the results directory.
pub const INDEX: &str = "index.html";

/// A results directory that only this process writes to.
#[derive(Debug)]
pub struct Results {
    root: PathBuf,
    journal: Journal,
    /// Lock file; closing it, as the death of the process does, releases the lock.
    _lock: File,
}

/// Results of an earlier run in the same directory.
#[derive(Debug, Default)]
pub struct PreviousRun {
    /// Runs with a verdict, by the VM's name and the number of the run.
    pub done: BTreeMap<(String, u32), FinishedRun>,
    /// Next try of each run that was started and has no verdict yet; earlier tries have failed.
    pub next: BTreeMap<(String, u32), u32>,
    /// Tries that were running when the farm died.
    pub lost: BTreeSet<Id>,
    /// Names of VMs that the suite has changed since, so that their results no longer count.
    pub changed: BTreeSet<String>,
    /// Names of VMs that are no longer planned.
    pub gone: BTreeSet<String>,
    /// Events in order, without those of VMs that changed or are no longer planned.
    pub events: Vec<FarmEvent>,
    /// Number of lines in the journal that are not events.
    pub damaged: usize,
}

/// Result of a run that has a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedRun {
    /// Status of the last try.
    pub status: Status,
    /// True if the run passed after a failed try.
    pub flaky: bool,
    /// True if the failure is known.
    pub known: bool,
    /// Signature of the hang by which the run failed; `None` otherwise.
    pub signature: Option<String>,
}

impl FinishedRun {
    /// Takes the result of a run from the end of its last try.
    pub fn from_last_try(end: &VmFinished) -> Self {
        let hang = end.hang.as_ref().filter(|_| end.status != Status::Pass);
        Self {
            status: end.status,
            flaky: end.flaky,
            known: end.known.is_some(),
            signature: hang.map(|hang| hang.signature.clone()),
        }
    }
}

impl Results {
    /// Opens a results directory for a run of these VMs, creates it if it does not exist, and locks it
    /// against other farms. With `resume`, also returns the results of an earlier run.
    ///
    /// # Errors
    /// Fails if the directory cannot be written, another farm holds its lock, or it has results and
    /// `resume` is false.
    pub fn open(
        root: &Path,
        vms: &[SuiteVm],
        bundled: &BundledGuest,
        resume: bool,
    ) -> Result<(Self, PreviousRun), OpenError> {
        let lock = lock(root).map_err(OpenError::Refused)?;
        let mut previous = PreviousRun::default();
        if root.join(journal::FILE).exists() {
            if !resume {
                let message = format!(
                    "{} holds the results of an earlier run: name another directory with --out, or \
                     resume it with --resume",
                    root.display()
                );
                return Err(OpenError::Refused(anyhow::anyhow!(message)));
            }
            let journal = journal::read(root).map_err(OpenError::Failed)?;
            if let Some(reason) = journal.is_later() {
                let error = anyhow::anyhow!("failed to resume in {}: {reason}", root.display());
                return Err(OpenError::Refused(error));
            }
            previous = PreviousRun::read(journal, vms, bundled);
        }
        let journal = Journal::open(root).map_err(OpenError::Failed)?;
        Ok((Self { root: root.into(), journal, _lock: lock }, previous))
    }

    /// Returns the path of the results directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Appends an event to the journal.
    ///
    /// # Errors
    /// Fails if the journal cannot be written.
    pub fn append(&mut self, event: &FarmEvent) -> anyhow::Result<()> {
        let failed = || format!("failed to write {}", self.root.join(journal::FILE).display());
        self.journal.append(event).with_context(failed)
    }

    /// Creates an empty directory for a try, and returns its path relative to the results directory.
    ///
    /// # Errors
    /// Fails if the directory cannot be created.
    pub fn create_try_directory(&self, id: &Id) -> anyhow::Result<PathBuf> {
        let relative = try_directory(id);
        let path = self.root.join(&relative);
        let failed = || format!("failed to make {}", path.display());
        // Remove files of a lost try, or of a VM that has changed since, and those of all later tries.
        for attempt in id.attempt..=u32::MAX {
            if !self.discard(&try_directory(&Id { attempt, ..id.clone() })).with_context(failed)? {
                break;
            }
        }
        fs::create_dir_all(&path).with_context(failed)?;
        Ok(relative)
    }

    /// Removes the directory of a try and the links to it; returns false if there was none.
    fn discard(&self, relative: &Path) -> io::Result<bool> {
        match fs::remove_dir_all(self.root.join(relative)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            removed => removed?,
        }
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            if fs::read_link(&path).is_ok_and(|target| target == relative) {
                fs::remove_file(path)?;
            }
        }
        Ok(true)
    }
}

/// Links a hang's signature to the directory of a try, unless an earlier try already has the link.
///
/// # Errors
/// Fails if the link cannot be created.
pub fn link_signature(root: &Path, signature: &str, directory: &Path) -> anyhow::Result<()> {
    let link = root.join(short_signature(signature));
    match symlink(directory, &link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("failed to make {}", link.display()))
        }
        _ => Ok(()),
    }
}

/// Returns the first eight digits of a signature, which suffice for people and for a link's name.
pub fn short_signature(signature: &str) -> &str {
    signature.get(..8).unwrap_or(signature)
}

/// Returns the directory of a try, relative to the results directory.
pub fn try_directory(id: &Id) -> PathBuf {
    Path::new("vms").join(encode_name(&id.name)).join(format!("{}.{}", id.run, id.attempt))
}

/// Maximum length of a name that is used unchanged; file systems allow 255 bytes.
const MAX_NAME: usize = 160;

/// Encodes a VM's name as a file name that no shell takes apart: injective, and never a path that leads out
/// of its directory. A slash becomes `--`, and a byte that would need quoting `_` and two hexadecimal digits.
pub fn encode_name(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut encoded = String::new();
    for (at, &byte) in bytes.iter().enumerate() {
        let rest = &bytes[at + 1..];
        let before = at.checked_sub(1).map(|at| bytes[at]);
        let beside = [before, rest.first().copied()];
        // Else `--` would be no slash, and an underscore with such digits no escape.
        let is_single = !beside.iter().flatten().any(|&byte| matches!(byte, b'/' | b'-'));
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'A'..=b'F');
        let is_escape = rest.len() >= 2 && rest[..2].iter().all(is_digit);
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => encoded.push(byte.into()),
            b'.' | b'=' if at > 0 => encoded.push(byte.into()),
            b'-' if at > 0 && !beside.contains(&Some(b'-')) => encoded.push('-'),
            b'_' if !is_escape => encoded.push('_'),
            b'/' if is_single && at > 0 && !rest.is_empty() => encoded.push_str("--"),
            _ => encoded.push_str(&format!("_{byte:02X}")),
        }
    }
    if encoded.is_empty() || encoded.len() > MAX_NAME {
        let digest = Sha256::digest(name);
        let digest: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        encoded.truncate(MAX_NAME - digest.len() - 3);
        // No encoded name has three of these in a row, and none ends with one of a slash.
        let start = if encoded.is_empty() { "_" } else { encoded.trim_end_matches('-') };
        encoded = format!("{start}---{digest}");
    }
    encoded
}

/// Hashes everything that determines a VM's run: its entry in the suite, and the sizes and modification
/// times of its files.
pub fn hash_definition(vm: &SuiteVm, bundled: &BundledGuest) -> String {
    let mut sha = Sha256::new();
    sha.update(serde_json::to_vec(vm).expect("a VM is plain JSON"));
    for file in [&vm.image, &vm.initrd] {
        let found = file.as_ref().and_then(|file| file.metadata().ok());
        let version = found.map(|found| (found.len(), found.mtime(), found.mtime_nsec()));
        sha.update(format!("\n{version:?}"));
    }
    if vm.image.is_none() {
        sha.update(bundled.digest());
    }
    sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Creates a results directory if it does not exist.
///
/// # Errors
/// Fails if the directory cannot be created.
pub fn make_root(root: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(root).with_context(|| format!("failed to make {}", root.display()))
}

/// Takes the lock, which is held as long as the file is open.
fn lock(root: &Path) -> anyhow::Result<File> {
    make_root(root)?;
    let path = root.join(LOCK);
    let failed = || format!("failed to lock {}", path.display());
    let options =
        fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
    let mut file = options.with_context(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = Read::by_ref(&mut file).take(64).read_to_string(&mut holder);
            bail!(
                "another farm is running in {} (process {}): wait for it, or name another directory \
                 with --out",
                root.display(),
                holder.trim()
            );
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(failed),
    }
    file.set_len(0).with_context(failed)?;
    file.rewind().with_context(failed)?;
    writeln!(file, "{}", std::process::id()).with_context(failed)?;
    Ok(file)
}

impl PreviousRun {
    fn read(journal: journal::JournalContents, vms: &[SuiteVm], bundled: &BundledGuest) -> Self {
        let planned: BTreeMap<&str, String> =
            vms.iter().map(|vm| (vm.name.as_str(), hash_definition(vm, bundled))).collect();
        let mut previous = Self { damaged: journal.damaged.len(), ..Self::default() };
        // The definition of each run's VM at its last start.
        let mut definitions = BTreeMap::new();
        for event in &journal.events {
            match &event.kind {
                EventKind::VmStarted(started) => {
                    let run = (started.id.name.clone(), started.id.run);
                    previous.done.remove(&run);
                    previous.next.insert(run.clone(), started.id.attempt);
                    definitions.insert(run, &started.definition);
                    previous.lost.insert(started.id.clone());
                }
                EventKind::VmFinished(finished) => {
                    previous.lost.remove(&finished.id);
                    let run = (finished.id.name.clone(), finished.id.run);
                    if finished.again {
                        previous.next.insert(run, finished.id.attempt.saturating_add(1));
                        continue;
                    }
                    if !finished.status.is_verdict() {
                        continue;
                    }
                    previous.next.remove(&run);
                    previous.done.insert(run, FinishedRun::from_last_try(finished));
                }
                EventKind::FarmStarted(_) => {
                    // Losses of earlier farms have been reported already.
                    previous.lost.clear();
                }
                EventKind::FarmInterrupted { .. } | EventKind::FarmFinished(_) => {}
            }
        }
        let mut stale = BTreeSet::new();
        for (run, definition) in definitions {
            match planned.get(run.0.as_str()) {
                Some(now) if now == definition => continue,
                Some(_) => previous.changed.insert(run.0.clone()),
                None => previous.gone.insert(run.0.clone()),
            };
            previous.done.remove(&run);
            previous.next.remove(&run);
            stale.insert(run);
        }
        let counts = |event: &FarmEvent| {
            let id = match &event.kind {
                EventKind::VmStarted(started) => &started.id,
                EventKind::VmFinished(finished) => &finished.id,
                EventKind::FarmStarted(_)
                | EventKind::FarmInterrupted { .. }
                | EventKind::FarmFinished(_) => {
                    return true;
                }
            };
            !stale.contains(&(id.name.clone(), id.run))
        };
        previous.events = journal.events.into_iter().filter(counts).collect();
        previous
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_distinct_safe_file_names() {
        let long = "x".repeat(5000);
        let names = [
            "boot/cpus=8",
            "boot%2Fcpus=8",
            "..",
            ".",
            "",
            "../../etc",
            "/",
            "a b",
            "a\nb",
            "ä",
            "\0",
            "-rf",
            &long,
            &long[1..],
            "con.txt",
            ".hidden",
            "a-/b",
            "a/-b",
            "a--b",
            "a-b",
            "a/b",
            "a//b",
            "a_2Fb",
            "a_b",
            "/a",
            "a/",
            "---",
            "a;b",
            "$(id)",
            "~",
            "a*b?",
            "=x",
            "x{1,2}",
        ];
        let files: BTreeSet<String> = names.iter().map(|name| encode_name(name)).collect();
        assert_eq!(files.len(), names.len(), "{files:?}");
        for file in &files {
            assert!(!file.contains('/') && !file.starts_with('.') && !file.is_empty(), "{file}");
            assert!(file.len() <= 255, "{file}");
            // Neither quoted nor expanded by any shell, and no option.
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "._=-".contains(c);
            assert!(file.chars().all(is_plain), "{file}");
            assert!(!file.starts_with(['-', '=']), "{file}");
        }
        assert_eq!(encode_name("boot/cpus=8"), "boot--cpus=8");
        assert_eq!(encode_name("spin_off/append=a b"), "spin_off--append=a_20b");
    }

    #[test]
    fn lock_excludes_a_second_farm_until_the_first_ends() {
        let directory = tempfile::tempdir().unwrap();
        let bundled = BundledGuest::new(b"an image");
        let (first, _) = Results::open(directory.path(), &[], &bundled, false).unwrap();
        let error =
            format!("{:#}", Results::open(directory.path(), &[], &bundled, true).unwrap_err());
        let process = std::process::id().to_string();
        assert!(error.contains("another farm") && error.contains(&process), "{error}");
        drop(first);
        let error =
            format!("{:#}", Results::open(directory.path(), &[], &bundled, false).unwrap_err());
        assert!(error.contains("--resume"), "{error}");
        Results::open(directory.path(), &[], &bundled, true).unwrap();
    }
}
