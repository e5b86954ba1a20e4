//! The summary on standard error: the number of a log's references that were found, and the reasons why the
//! others were not.
//!
//! Owns the counts and their text. Called by the annotator, which counts, and by `cli`, which prints.

use std::collections::BTreeMap;

use nmiscope_report::sanitize;
use nmiscope_symbolizer::Image;

use super::grammar::{CodeLocation, Reference};
use super::lookup::{Resolution, Unresolved};

/// Largest number of different reasons that are counted separately.
const MAX_KINDS: usize = 64;
/// Largest part of a `Linux version` line that is compared, in bytes.
const MAX_BANNER: usize = 1024;

/// Counts of a log's references, and the facts that explain them.
#[derive(Clone, Debug, Default)]
pub struct LogSummary {
    /// Number of references to code.
    pub total: u64,
    /// Number of references with a match.
    pub found: u64,
    /// Number of references with several different matches. They are in `found` too.
    pub ambiguous: u64,
    /// Number of references whose symbol has another size in the image. They are not in `found`.
    pub doubtful: u64,
    /// Number of references without a match, by the reason.
    missing: BTreeMap<Reason, u64>,
    /// True if the log has several `Kernel Offset:` lines that differ, and no boot between them.
    pub(super) several_offsets: bool,
    /// `Linux version` of the image; `None` if it has none.
    pub(super) image_banner: Option<String>,
    /// First `Linux version` in the log that differs from the image's.
    other_banner: Option<String>,
    image_has_debug_info: bool,
    image_has_symbols: bool,
}

/// Reason why a reference was not found, without the details of one reference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    ModuleNotFound(String),
    ModuleUnreadable(String, String),
    ModuleOfOtherKernel(String),
    OtherModules,
    NoSymbol,
    OtherSize,
    OutsideImage,
    /// An address outside the image, in a log without the KASLR offset.
    Moved,
    NoDebugInfo,
    Incomplete(String),
}

impl Reason {
    fn is_module_not_found(&self) -> bool {
        matches!(self, Self::ModuleNotFound(_))
    }

    /// Returns the name of the module that a reason is about.
    fn module(&self) -> Option<&str> {
        match self {
            Self::ModuleNotFound(name)
            | Self::ModuleUnreadable(name, _)
            | Self::ModuleOfOtherKernel(name) => Some(name),
            _ => None,
        }
    }
}

impl LogSummary {
    /// Creates an empty summary of a log that is looked up in `image`.
    pub fn new(image: &Image<'_>) -> Self {
        Self {
            image_banner: banner(image),
            image_has_debug_info: image.has_debug_info(),
            image_has_symbols: image.has_symbols(),
            ..Self::default()
        }
    }

    /// Counts a reference. `offset` is the KASLR offset in bytes, if it is known.
    pub fn count(&mut self, reference: &Reference<'_>, answer: &Resolution, offset: Option<u64>) {
        let Some(missing) = &answer.missing else {
            self.total += 1;
            if answer.doubt.is_some() {
                self.doubtful += 1;
                return;
            }
            self.found += 1;
            self.ambiguous += u64::from(answer.is_ambiguous());
            return;
        };
        let is_address = matches!(reference.target, CodeLocation::Address(_));
        let reason = match missing {
            // A variable is not code, and is not counted.
            Unresolved::Variable => return,
            Unresolved::ModuleNotFound(name) => Reason::ModuleNotFound(name.clone()),
            Unresolved::ModuleUnreadable { name, reason } => {
                Reason::ModuleUnreadable(name.clone(), reason.clone())
            }
            Unresolved::ModuleOfOtherKernel(name) => Reason::ModuleOfOtherKernel(name.clone()),
            Unresolved::NoSymbol(_) => Reason::NoSymbol,
            Unresolved::OtherSize { .. } => Reason::OtherSize,
            Unresolved::OutsideImage if is_address && offset.is_none() => Reason::Moved,
            Unresolved::OutsideImage => Reason::OutsideImage,
            Unresolved::NoDebugInfo => Reason::NoDebugInfo,
            Unresolved::Incomplete(reason) => Reason::Incomplete(reason.clone()),
        };
        let is_new = !self.missing.contains_key(&reason);
        let reason =
            if is_new && self.missing.len() >= MAX_KINDS { Reason::OtherModules } else { reason };
        self.total += 1;
        *self.missing.entry(reason).or_default() += 1;
    }

    /// Compares the log's `Linux version` with the image's, and keeps the first that differs.
    pub fn compare_banner(&mut self, banner: &[u8]) {
        let banner = text(banner);
        if let Some(image) = &self.image_banner
            && self.other_banner.is_none()
            // A console may have cut the line.
            && !image.starts_with(&banner)
        {
            self.other_banner = Some(banner);
        }
    }

    /// Returns a warning if the log is of another kernel than the image. `None` if they agree, or one of
    /// them has no `Linux version`.
    pub fn other_kernel(&self) -> Option<String> {
        let (log, image) = (self.other_banner.as_ref()?, self.image_banner.as_ref()?);
        let (of_log, of_image) =
            (release(log).unwrap_or_default(), release(image).unwrap_or_default());
        Some(if of_log == of_image {
            format!(
                "the log is of another build of Linux {of_log} than the image: \"{log}\" in the log, \
                 \"{image}\" in the image"
            )
        } else {
            format!(
                "the log is of Linux {of_log}, and the image of Linux {of_image}: give the vmlinux of \
                 the log's kernel"
            )
        })
    }

    /// Returns the summary as one line of text.
    pub fn text(&self) -> String {
        if self.total == 0 {
            return "no addresses: nothing in the text is a line of a stack trace".into();
        }
        let addresses = if self.total == 1 { "address" } else { "addresses" };
        let mut parts = vec![format!("{} of {} {addresses}", self.found, self.total)];
        if self.ambiguous > 0 {
            parts.push(format!("{} of them ambiguous", self.ambiguous));
        }
        if self.doubtful > 0 {
            parts.push(format!(
                "{} doubtful, of functions that have another size in the image",
                self.doubtful
            ));
        }
        parts.extend(self.modules_not_found());
        let others = self.missing.iter().filter(|(reason, _)| !reason.is_module_not_found());
        parts.extend(others.map(|(reason, count)| self.explain(reason, *count)));
        if self.several_offsets {
            parts.push(
                "several `Kernel Offset:` lines without a boot between them: addresses before the last \
                 one may be wrong"
                    .into(),
            );
        }
        if self.found == 0 {
            parts.push(self.likely_reason());
        }
        parts.join("; ")
    }

    /// Returns the text about modules that were not found, the first few by name.
    fn modules_not_found(&self) -> Option<String> {
        const SHOWN: usize = 3;
        let not_found = || self.missing.iter().filter(|(reason, _)| reason.is_module_not_found());
        let count: u64 = not_found().map(|(_, count)| count).sum();
        let names: Vec<&str> = not_found().filter_map(|(reason, _)| reason.module()).collect();
        let text = match names.as_slice() {
            [] => return None,
            [name] => format!("{count} in module {name}, which was not found: give --modules"),
            names if names.len() <= SHOWN => {
                format!(
                    "{count} in modules {}, which were not found: give --modules",
                    names.join(", ")
                )
            }
            names => format!(
                "{count} in modules {} and {} more, which were not found: give --modules",
                names[..SHOWN].join(", "),
                names.len() - SHOWN
            ),
        };
        Some(sanitize::line(&text))
    }

    fn explain(&self, reason: &Reason, count: u64) -> String {
        let text = match reason {
            Reason::ModuleNotFound(name) => format!("in module {name}, which was not found"),
            Reason::ModuleUnreadable(name, why) => {
                format!("in module {name}, which cannot be read: {why}")
            }
            Reason::ModuleOfOtherKernel(name) => {
                format!("in module {name}, which was found for another kernel only")
            }
            Reason::OtherModules => "in further modules".into(),
            Reason::NoSymbol if !self.image_has_symbols => {
                "by name, and the image has no symbol table: give one that was not stripped".into()
            }
            Reason::NoSymbol => "of functions that the image does not have".into(),
            Reason::OtherSize => "of functions that have another size in the image".into(),
            Reason::OutsideImage => "outside the image".into(),
            Reason::Moved => {
                "outside the image, in a log that does not say how far the kernel was \
                              moved (KASLR): give --offset"
                    .into()
            }
            Reason::NoDebugInfo if self.image_has_debug_info => {
                "that no debug information covers".into()
            }
            Reason::NoDebugInfo => "without a line: the image has no debug information".into(),
            Reason::Incomplete(reason) => format!("without a line: {reason}"),
        };
        sanitize::line(&format!("{count} {text}"))
    }

    /// Returns the text with the likeliest reason why no reference was found.
    fn likely_reason(&self) -> String {
        if self.other_banner.is_some() {
            return "nothing matches: the image is of another kernel".into();
        }
        let most = self.missing.iter().max_by_key(|&(_, count)| count).map(|(reason, _)| reason);
        match most {
            _ if self.doubtful > 0 => {
                "nothing matches: the image is likely of another build of the kernel".into()
            }
            Some(Reason::NoSymbol) if !self.image_has_symbols => "nothing matches".into(),
            Some(Reason::NoSymbol | Reason::OtherSize | Reason::OutsideImage) => {
                "nothing matches: the image is likely of another kernel".into()
            }
            Some(Reason::Moved) => {
                "nothing matches: the kernel was likely moved by KASLR, or the image is of another \
                 kernel"
                    .into()
            }
            Some(Reason::NoDebugInfo) => {
                "nothing was added: give an image with debug information, or its debug file's \
                 directory with --debug-dir"
                    .into()
            }
            _ => "nothing matches".into(),
        }
    }
}

/// Returns the `Linux version` line of an image of Linux; `None` if the file lacks its bytes.
fn banner(image: &Image<'_>) -> Option<String> {
    let address = image.symbol("linux_banner")?.address;
    let bytes = image.loaded_bytes(address)?;
    let bytes = &bytes[..bytes.len().min(MAX_BANNER)];
    let end = bytes.iter().position(|&byte| byte == 0 || byte == b'\n')?;
    bytes.starts_with(b"Linux version ").then(|| text(&bytes[..end]))
}

/// Converts a banner to text that can be compared and printed.
fn text(banner: &[u8]) -> String {
    let banner = &banner[..banner.len().min(MAX_BANNER)];
    let printable = |byte: &u8| *byte >= b' ' && *byte != 0x7f;
    let end = banner.iter().position(|byte| !printable(byte)).unwrap_or(banner.len());
    sanitize::line(String::from_utf8_lossy(&banner[..end]).trim_end())
}

/// Returns the release in a `Linux version` line, its third word.
pub(super) fn release(banner: &str) -> Option<String> {
    banner.split_ascii_whitespace().nth(2).map(str::to_owned)
}
