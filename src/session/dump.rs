//! The report from a dump that another program wrote: the capture and diagnosis of a VM, with a file as
//! its target.
//!
//! Owns the order of the steps. Refuses to own formats (`targets`). Called by `offline`.

use nmiscope_report::{Report, Source, Trigger};

use super::guest_image::{GuestImages, ImageSearch};
use super::origin::Origin;
use super::stack_choice::StackChoice;
use crate::targets::{Dump, Target};

/// Makes the report of a dump. `name` is the file's name in messages.
///
/// # Errors
/// A file that `search` names cannot be read, or is not the one in the dump's memory.
pub(super) fn report(
    mut dump: Dump<'_>,
    name: &str,
    search: ImageSearch<'_>,
    stacks: StackChoice,
) -> anyhow::Result<Report> {
    let warnings = dump.findings().iter().map(|finding| format!("{name}: {finding}")).collect();
    let images = GuestImages::open(&dump, search, true, warnings)?;
    let mut visitor = images.visitor(stacks);
    let (capture, _) = visitor.capture(&mut dump, Trigger::Dump, None);
    Ok(visitor.report(&capture, Source::Dump, Origin::unknown(), dump.extents().bytes()))
}
