//! Records of `symbolize --json`: one for each reference of a log, each on a line of its own.
//!
//! Owns these types and their JSON names; refuses to own how references are found and looked up. Filled by
//! the tool's `symbolize`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::frame::Function;

/// The version of the format of these records, which is additive: within a version, fields are only added.
pub const SCHEMA_VERSION: u32 = 1;

/// A part of a log that names code, and the places in the image that it refers to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResolvedReference {
    /// Version of the format of this record: 1. Absent in records of the first builds.
    #[serde(default)]
    pub schema_version: u32,
    /// Number of the line in the log, from 1; null for an argument of the command.
    pub line: Option<u64>,
    /// The text that names the code, as the log has it.
    pub text: String,
    /// Name of the module that the log puts behind the text; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Build-id that the log prints for the module, in hexadecimal; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_build_id: Option<String>,
    /// True where the text names the instruction itself; false where a call returns to it, so that the
    /// call before it is looked up.
    pub exact: bool,
    /// Places that fit the text, by address. More than one where the text is ambiguous; none where nothing
    /// is known.
    pub candidates: Vec<Candidate>,
    /// Number of places that fit and are not in `candidates`; absent for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub candidates_omitted: u64,
    /// Reason to doubt the candidate: its name fits, and its size is another than in the log, so that
    /// the image may be of another build. Absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
    /// Reason why lines and inlined calls of a candidate are missing though the image may have them: its
    /// debug information is broken, or takes more work than it gets. Absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
    /// Reason why there is no candidate; absent where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// A place in an image that fits the text of a reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Candidate {
    /// Address as the image was linked, without KASLR's offset; for a module, as its file was laid
    /// out. 16 hexadecimal digits.
    pub address: String,
    /// Functions at the place: innermost inlined call first, and last the function whose code it is.
    pub frames: Vec<Function>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The JSON schema of [`ResolvedReference`], as docs/symbolize.schema.json holds it.
pub fn schema() -> String {
    super::json::schema_of::<ResolvedReference>()
}
