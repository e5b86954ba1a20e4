//! `--html` and `--source-dir` of the commands that make reports: the page, and the source lines in its stacks.
//!
//! Owns the options, and the reading of source files; refuses to own the page (`nmiscope_report::html`). Called by
//! `run`, `attach` and `report`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::builder::{PathBufValueParser, TypedValueParser as _};
use clap::{Args, ValueHint};
use nmiscope_report::Report;
use nmiscope_report::destination::Destination;
use nmiscope_report::html::{self, Sources};

use super::output::{self, Text};
use crate::errors::BadRequest;
use crate::images::{beneath, source_roots};

/// The most bytes of a source file that is shown.
const MAX_SOURCE_BYTES: u64 = 1 << 20;

/// Options that name folders with source files.
#[derive(Debug, Clone, Default, Args)]
pub struct SourceArgs {
    /// Show the source lines around the frames in an HTML report, from files below this directory; may be
    /// repeated, and is searched in order. The image names the files: any text file below the directory may be
    /// shown, and none outside of it
    #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath,
          value_parser = PathBufValueParser::new().try_map(directory))]
    pub source_dir: Vec<PathBuf>,
}

impl SourceArgs {
    /// Returns the page of a report.
    pub fn page(&self, report: &Report) -> String {
        html::report(report, &self.sources(report))
    }

    /// Returns the source lines around the frames of a report, as far as their files are below the folders.
    fn sources(&self, report: &Report) -> Sources {
        let mut sources = Sources::default();
        if self.source_dir.is_empty() {
            return sources;
        }
        let wanted = Sources::wanted(report);
        let mut found = 0;
        for (file, lines) in &wanted {
            if let Some(text) = self.source_dir.iter().find_map(|folder| read(folder, file)) {
                sources.add(file, lines, &text);
                found += 1;
            }
        }
        if found == 0 && !wanted.is_empty() {
            let folders: Vec<String> =
                self.source_dir.iter().map(|folder| folder.display().to_string()).collect();
            let folders = folders.join(", ");
            output::warning(&format!("no source file of this report is below {folders}"));
        }
        sources
    }
}

fn directory(path: PathBuf) -> Result<PathBuf, String> {
    if path.is_dir() { Ok(path) } else { Err("there is no such directory".into()) }
}

/// Reads a source file below a folder; `None` if there is none, or it is larger than source files are.
fn read(folder: &Path, file: &str) -> Option<String> {
    let file = places(folder, file).iter().find_map(|path| beneath::open(folder, path).ok())?;
    let mut bytes = Vec::new();
    file.take(MAX_SOURCE_BYTES + 1).read_to_end(&mut bytes).ok()?;
    let is_whole = bytes.len() as u64 <= MAX_SOURCE_BYTES;
    is_whole.then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the paths that a source file may have below a folder: the image was built there, or names its files
/// relative to it, or the report has them relative to a root of its own.
fn places(folder: &Path, file: &str) -> Vec<PathBuf> {
    let path = Path::new(file);
    let mut places = vec![path.strip_prefix(folder).unwrap_or(path).to_owned()];
    if let Ok(folder) = std::path::absolute(folder) {
        let whole = source_roots().into_iter().map(|root| Path::new(&root).join(path));
        let below = whole.filter_map(|whole| Some(whole.strip_prefix(&folder).ok()?.to_owned()));
        places.extend(below);
    }
    places
}

/// The page of a report beside its other forms.
#[derive(Debug, Clone, Default, Args)]
pub struct PageArgs {
    /// Write the report as an HTML page, in one file for a browser, to this file; `-` for standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub html: Option<PathBuf>,
    /// Options that name folders with source files
    #[command(flatten)]
    pub source: SourceArgs,
}

impl PageArgs {
    /// Opens the destination of the page. `json` is that of the report as JSON.
    ///
    /// # Errors
    /// The page cannot be written there, or both go to standard output.
    pub fn open(&self, json: Option<&Destination>) -> anyhow::Result<Option<Destination>> {
        let destination = self.html.as_deref().map(Destination::open).transpose();
        let destination = destination.map_err(BadRequest::from_error)?;
        let is_stdout =
            |destination: Option<&Destination>| destination.is_some_and(Destination::is_stdout);
        if is_stdout(destination.as_ref()) && is_stdout(json) {
            let message =
                "--json and --html cannot both be written to standard output: name a file";
            return Err(BadRequest::from_error(anyhow!(message)));
        }
        Ok(destination)
    }

    /// Writes the page, and prints the name of its file.
    ///
    /// # Errors
    /// The page cannot be written.
    pub fn write(
        &self,
        report: &Report,
        destination: Option<&Destination>,
        text: Text,
    ) -> anyhow::Result<()> {
        let Some(destination) = destination else { return Ok(()) };
        text.write_bytes(self.source.page(report).as_bytes(), destination)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn source_files_are_read_below_the_folder_alone() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("source");
        fs::create_dir_all(folder.join("kernel")).expect("a folder");
        fs::write(folder.join("kernel/a.c"), "int a;").expect("a file");
        fs::write(folder.join("large.c"), vec![b'x'; (1 << 20) + 1]).expect("a file");
        fs::write(root.path().join("secret"), "secret").expect("a file");
        symlink(root.path().join("secret"), folder.join("link.c")).expect("a link");
        let absolute = folder.join("kernel/a.c");
        for path in ["kernel/a.c", "./kernel/a.c", absolute.to_str().expect("a path")] {
            assert_eq!(read(&folder, path).as_deref(), Some("int a;"), "{path}");
        }
        // A report's paths are relative to the working directory, however the folder is named.
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        assert_eq!(places(&package, "src/main.rs").last(), Some(&PathBuf::from("main.rs")));
        assert!(read(&package, "src/main.rs").is_some());
        assert!(read(Path::new("./src"), "src/main.rs").is_some());
        let outside = root.path().join("secret");
        let outside = outside.to_str().expect("a path");
        for path in
            ["../secret", "link.c", outside, "/etc/passwd", "kernel", "large.c", "none.c", ""]
        {
            assert_eq!(read(&folder, path), None, "{path}");
        }
    }
}
