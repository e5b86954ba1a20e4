//! A suite as its file spells it: the types that TOML is parsed into, and the source of
//! docs/suite.schema.json.
//!
//! An impossible value is refused where it is parsed, so that the error has a place. Checks that involve
//! several values belong to `matrix`.

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

/// Name that stands for the bundled guest in place of an image's path.
pub const BUNDLED: &str = "bundled";

/// Name that stands for all workloads of the bundled guest.
pub const ALL_WORKLOADS: &str = "*";

/// A suite: VMs to run, with the expected end of each.
#[derive(Debug, Default, JsonSchema)]
#[schemars(title = "nmiscope suite", deny_unknown_fields)]
pub struct SuiteFile {
    /// Settings of all VMs that do not have their own.
    #[schemars(default)]
    pub defaults: Settings,
    /// VMs of the suite, in the order in which they start.
    #[schemars(length(min = 1))]
    pub vm: Vec<VmTable>,
}

/// A VM, or several VMs made by its `matrix`.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct VmTable {
    /// Name of the VM, unique in the suite: parts with slashes between them. A `matrix` appends the values
    /// that distinguish its VMs: `/cpus=8`, `/memory=64M`, `/append=quiet`, in this order.
    #[schemars(with = "VmName")]
    pub name: Spanned<VmName>,
    /// Values of keys; every combination of them makes a VM.
    #[schemars(with = "Option<Matrix>")]
    pub matrix: Option<Spanned<Matrix>>,
    /// Settings of this VM, which replace those in `defaults`.
    #[schemars(flatten)]
    pub settings: Settings,
}

/// Settings of one VM, or of all VMs that do not have their own. A key of a VM replaces the one in
/// `defaults` as a whole.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// Guest to run: `bundled`, or the path of an x86-64 ELF kernel with a PVH entry point, relative to
    /// the suite's file [default: bundled]
    pub image: Option<String>,
    /// Path of an initial RAM disk for the guest, relative to the suite's file.
    pub initrd: Option<String>,
    /// Value of the kernel parameter `workload=`. With the bundled guest, `*` makes a VM for each
    /// workload, expected to end as the workload's label says; workloads that need more vCPUs are left
    /// out.
    #[schemars(with = "Option<WorkloadName>")]
    pub workload: Option<Spanned<WorkloadName>>,
    /// Further kernel parameters, passed on unchanged.
    #[schemars(with = "Option<KernelParameters>")]
    pub append: Option<Spanned<KernelParameters>>,
    /// Number of vCPUs [default: 4]
    #[schemars(with = "Option<Cpus>")]
    pub cpus: Option<Spanned<Cpus>>,
    /// Size of guest memory in bytes, or with a suffix K, M or G [default: 64M]
    #[schemars(with = "Option<MemorySize>")]
    pub memory: Option<Spanned<MemorySize>>,
    /// Time after which a guest that has not ended fails [default: 60s]
    pub time_limit: Option<TimeLimit>,
    /// Time after which the guest is stopped and counts as passed, for guests that do not end by
    /// themselves; 0 disables this [default: 0, and 4s for healthy workloads of `workload = "*"`]
    pub stop_after: Option<DurationSetting>,
    /// Time within which the guest must report that it is ready, or it hangs (boot-stall); 0 disables the
    /// check [default: 30s, and 5s for workloads of `workload = "*"` that never boot]
    pub ready_within: Option<DurationSetting>,
    /// Time without progress of a vCPU after which a hang is reported, not counting time that it waited
    /// for a host CPU (idle time counts); 0 disables detection. A list or a table sets bounds for single
    /// classes of hangs [default: 2s]
    pub hang_after: Option<HangBounds>,
    /// Number of further tries after one that did not end as expected [default: 0]
    pub retries: Option<u32>,
    /// Tags that `--filter` can select the VM by.
    pub tags: Option<Vec<Tag>>,
    /// Expected end of the guest [default: pass]
    #[schemars(with = "Option<Expect>")]
    pub expect: Option<Spanned<Expect>>,
    /// Rules for the guest's console output.
    pub console: Option<ConsoleTable>,
}

impl Settings {
    /// Returns all regular expressions in the settings.
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

/// Values of keys; every combination of them makes a VM. A value takes the place of the setting of the
/// same name.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    /// Numbers of vCPUs to combine.
    #[schemars(with = "Option<Vec<Cpus>>", length(min = 1))]
    pub cpus: Option<Spanned<Vec<Spanned<Cpus>>>>,
    /// Sizes of guest memory to combine.
    #[schemars(with = "Option<Vec<MemorySize>>", length(min = 1))]
    pub memory: Option<Spanned<Vec<Spanned<MemorySize>>>>,
    /// Kernel parameters to combine, each value as a whole.
    #[schemars(with = "Option<Vec<KernelParameters>>", length(min = 1))]
    pub append: Option<Spanned<Vec<Spanned<KernelParameters>>>>,
}

/// Rules for a guest's console output: regular expressions, each matched against single lines.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ConsoleTable {
    /// Expressions that must each match some line.
    #[serde(default)]
    #[schemars(with = "Vec<Expression>")]
    pub must: Vec<Spanned<Expression>>,
    /// Expressions that must match no line.
    #[serde(default)]
    #[schemars(with = "Vec<Expression>")]
    pub must_not: Vec<Spanned<Expression>>,
}
