//! A suite as its file has it: what docs/suite.schema.json is made from, and what TOML is read into.
//!
//! A value that says something impossible is refused where it is read, so that the error has its place.
//! What depends on more than one of them is `matrix`'s business.

mod bounds;
mod expect;
mod values;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

pub use bounds::{BoundsByClass, HangBounds};
pub use expect::{Expect, ExpectWord, HangClass};
pub use values::{
    ClassBound, Cpus, DurationSetting, Expression, HangBound, KernelParameters, MemorySize, Tag,
    TimeLimit, VmName, WorkloadName,
};

/// The image of a VM that runs the guest that is part of nmiscope.
pub const BUNDLED: &str = "bundled";

/// The workload that stands for all of the bundled guest's.
pub const ALL_WORKLOADS: &str = "*";

/// A suite: VMs to run, and what to expect of each.
#[derive(Debug, Default, JsonSchema)]
#[schemars(title = "nmiscope suite", deny_unknown_fields)]
pub struct SuiteFile {
    /// What holds for each VM that does not say otherwise.
    #[schemars(default)]
    pub defaults: Settings,
    /// The VMs.
    #[schemars(length(min = 1))]
    pub vm: Vec<VmTable>,
}

/// A VM, or several by its `matrix`.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct VmTable {
    /// Its name, which no other VM has: parts with slashes between them. A `matrix` adds what makes
    /// its VMs different: `/cpus=8`, `/memory=64M`, `/append=quiet`, in this order.
    #[schemars(with = "VmName")]
    pub name: Spanned<VmName>,
    /// Makes a VM for each combination of these.
    #[schemars(with = "Option<Matrix>")]
    pub matrix: Option<Spanned<Matrix>>,
    /// The rest.
    #[schemars(flatten)]
    pub settings: Settings,
}

/// What can be said of one VM, and of all that do not say otherwise. A key of a VM takes the place of
/// the one in `defaults`, as a whole.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// The guest: `bundled`, or an x86-64 ELF kernel with a PVH entry point, relative to the suite's
    /// file [default: bundled]
    pub image: Option<String>,
    /// An initial RAM disk for the guest, relative to the suite's file.
    pub initrd: Option<String>,
    /// What the guest runs, as its kernel parameter `workload=`. Of the bundled guest, `*` makes a VM
    /// for each workload, which is expected to do what it is there for; those that need more vCPUs are
    /// left out.
    #[schemars(with = "Option<WorkloadName>")]
    pub workload: Option<Spanned<WorkloadName>>,
    /// Other kernel parameters, as they are.
    #[schemars(with = "Option<KernelParameters>")]
    pub append: Option<Spanned<KernelParameters>>,
    /// Number of vCPUs [default: 4]
    #[schemars(with = "Option<Cpus>")]
    pub cpus: Option<Spanned<Cpus>>,
    /// Guest memory: bytes, or with K, M or G behind [default: 64M]
    #[schemars(with = "Option<MemorySize>")]
    pub memory: Option<Spanned<MemorySize>>,
    /// The guest has failed if it has not ended by then [default: 60s]
    pub time_limit: Option<TimeLimit>,
    /// Ends the run as a success, for a guest that does not end by itself; 0 to not [default: 0, and
    /// for what is healthy of `workload = "*"` 4s]
    pub stop_after: Option<DurationSetting>,
    /// Call it a hang (boot-stall) when the guest is not ready by then; 0 to not look [default: 30s, and
    /// for what does not boot of `workload = "*"` 5s]
    pub ready_within: Option<DurationSetting>,
    /// Call it a hang when a vCPU gets nowhere for so long; 0 to not look. A bound for all classes of
    /// hangs, or as a list or a table bounds for some [default: 2s]
    pub hang_after: Option<HangBounds>,
    /// How often it is tried again if it does not do what is expected [default: 0]
    pub retries: Option<u32>,
    /// Tags, for filters.
    pub tags: Option<Vec<Tag>>,
    /// How it is to end [default: pass]
    #[schemars(with = "Option<Expect>")]
    pub expect: Option<Spanned<Expect>>,
    /// What it is to print on its console.
    pub console: Option<ConsoleTable>,
}

impl Settings {
    /// All that is a regular expression.
    pub fn expressions(&self) -> impl Iterator<Item = &Spanned<Expression>> {
        let console = self.console.iter();
        let console = console.flat_map(|console| console.must.iter().chain(&console.must_not));
        let panic = self.expect.iter().filter_map(|expect| match expect.get_ref() {
            Expect::Panic { panic } => Some(panic),
            _ => None,
        });
        console.chain(panic)
    }
}

/// Makes a VM for each combination of its values. Each takes the place of the key of the same name.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    /// Numbers of vCPUs.
    #[schemars(with = "Option<Vec<Cpus>>", length(min = 1))]
    pub cpus: Option<Spanned<Vec<Spanned<Cpus>>>>,
    /// Sizes of guest memory.
    #[schemars(with = "Option<Vec<MemorySize>>", length(min = 1))]
    pub memory: Option<Spanned<Vec<Spanned<MemorySize>>>>,
    /// Kernel parameters.
    #[schemars(with = "Option<Vec<KernelParameters>>", length(min = 1))]
    pub append: Option<Spanned<Vec<Spanned<KernelParameters>>>>,
}

/// What a VM is to print on its console: regular expressions, each for one line.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ConsoleTable {
    /// Some line matches each of these.
    #[serde(default)]
    #[schemars(with = "Vec<Expression>")]
    pub must: Vec<Spanned<Expression>>,
    /// No line matches any of these.
    #[serde(default)]
    #[schemars(with = "Vec<Expression>")]
    pub must_not: Vec<Spanned<Expression>>,
}
