//! The items of `nmiscope list`, and the form of its JSON: one line for each item.
//!
//! Owns that form (docs/list.schema.json); refuses to own the items (`corpus`, `report`). Called by the
//! command line.

use clap::ValueEnum;
use nmiscope_report::Class;
use schemars::JsonSchema;
use serde::Serialize;

use crate::corpus;

/// Version of [`ListedItem`] as JSON: raised when a field changes its meaning or goes away.
pub const LIST_SCHEMA_VERSION: u32 = 1;

/// A name that options take, with what it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(title = "nmiscope list")]
pub struct ListedItem {
    /// Version of this format, at present 1: raised when a field changes its meaning or goes away.
    pub schema_version: u32,
    /// Name of the item, as options and suites take it.
    pub name: String,
    /// Description of the item in one sentence.
    pub summary: String,
    /// Data of the item's kind.
    #[serde(flatten)]
    pub kind: ListedKind,
}

/// Kinds of items, each with its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ListedKind {
    /// A workload of the bundled guest.
    Workload {
        /// Expected end of a run: a class of hangs, `panic`, `triple-fault`, `exit N` or `healthy`.
        expect: String,
        /// Least number of vCPUs that the workload needs.
        min_cpus: u32,
    },
    /// A class of hangs, which options and expectations name.
    Class,
}

/// Returns the workloads of the bundled guest, sorted by name.
pub fn workloads() -> Vec<ListedItem> {
    let item = |row: &corpus::Row| ListedItem {
        schema_version: LIST_SCHEMA_VERSION,
        name: row.name.into(),
        summary: row.summary(),
        kind: ListedKind::Workload { expect: row.expected().name(), min_cpus: row.min_cpus() },
    };
    corpus::ROWS.iter().map(item).collect()
}

/// Returns the classes of hangs, in the order in which they explain a guest, the best explanation first.
pub fn classes() -> Vec<ListedItem> {
    let item = |class: &Class| {
        let value = class.to_possible_value();
        let summary = value.as_ref().and_then(|value| value.get_help());
        ListedItem {
            schema_version: LIST_SCHEMA_VERSION,
            name: class.name().into(),
            summary: summary.map(ToString::to_string).unwrap_or_default(),
            kind: ListedKind::Class,
        }
    };
    Class::value_variants().iter().map(item).collect()
}

/// Returns the JSON schema of [`ListedItem`], as docs/list.schema.json holds it.
pub fn schema() -> String {
    nmiscope_report::json::schema_of::<ListedItem>()
}
