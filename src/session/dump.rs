//! The report from a dump that another program wrote: the capture and diagnosis of a VM, with a file as
//! its target.
//!
//! Owns the order of the steps. Refuses to own formats (`targets`). Called by `offline`.

use std::path::Path;

use nmiscope_report::{Report, Source, Trigger};

use super::guest_image;
use super::origin::Origin;
use super::visit::Visitor;
use crate::targets::{Dump, Target};

/// Makes the report of a dump. `name` is the file's name in messages.
///
/// # Errors
/// `image` cannot be read, or is not the one in the dump's memory.
pub(super) fn report(
    mut dump: Dump<'_>,
    name: &str,
    image: Option<&Path>,
    debug_directory: &Path,
    with_variables: bool,
) -> anyhow::Result<Report> {
    let mut warnings: Vec<String> =
        dump.findings().iter().map(|finding| format!("{name}: {finding}")).collect();
    let in_memory = if image.is_none() { Visitor::in_memory(&dump) } else { None };
    let found = match &in_memory {
        Some(_) => None,
        None => guest_image::open(&dump, image, debug_directory, &mut warnings)?,
    };
    let (files, path) = found.unzip();
    let image = files.as_ref().and_then(|files| files.parse().ok());
    let mut visitor = match in_memory {
        Some(visitor) => visitor.without_image(with_variables, warnings),
        None => Visitor::new(image.as_ref(), with_variables, warnings).or_state_of(&dump, true),
    };
    let (capture, _) = visitor.capture(&mut dump, Trigger::Dump, None);
    Ok(visitor.report(
        &capture,
        Source::Dump,
        Origin::unknown(),
        dump.extents().bytes(),
        path.flatten(),
    ))
}
