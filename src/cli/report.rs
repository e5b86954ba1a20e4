//! `nmiscope report`: a core to text and JSON.

use super::arguments;
use super::exit_code::{self, Code};
use super::output::{self, Text};
use crate::destination::Destination;
use crate::errors::BadRequest;
use crate::postmortem::{self, Stored};
use crate::report::text;

/// Makes the report.
pub fn report(arguments: &arguments::Report) -> anyhow::Result<Code> {
    let destination = arguments.json.as_deref().map(Destination::open).transpose();
    let destination = destination.map_err(BadRequest::from_error)?;
    let text = Text::beside(destination.as_ref(), arguments.quiet);
    let report = Stored::open(&arguments.core)
        .and_then(|core| {
            let image = arguments.image.as_deref();
            postmortem::report(&core, image, &arguments.debug_dir, arguments.args)
        })
        .map_err(BadRequest::from_error)?;
    for warning in &report.warnings {
        output::warning(warning);
    }
    text.print(&text::report(&report));
    if let Some(destination) = destination {
        text.write(&report, destination)?;
    }
    Ok(exit_code::of_report(&report))
}
