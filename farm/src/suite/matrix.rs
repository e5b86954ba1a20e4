//! Expands a suite as written to its VMs: fills in defaults, multiplies matrices, and lists the corpus.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;

use super::diagnostic::Problem;
use super::file::{
    ALL_WORKLOADS, BUNDLED, ConsoleTable, Cpus, Expression, HangBounds, KernelParameters, Matrix,
    Settings, SuiteFile, VmTable,
};
use super::{ConsoleRules, Expectation, LeftOut, SuiteVm};
use crate::corpus::{self, Expected, Row};
use crate::kernel_parameters;

/// Values for keys that neither a VM nor `defaults` has; all other keys default to what `run` does.
mod default {
    use std::time::Duration;

    pub const CPUS: u32 = 4;
    pub const MEMORY: u64 = 64 << 20;
    /// Longer than the half minute that some hangs need, so that they are reported as hangs.
    pub const TIME_LIMIT: Duration = Duration::from_secs(60);
    pub const READY_WITHIN: Duration = Duration::from_secs(30);
    pub const HANG_AFTER: [&str; 2] = ["2s", "sleepers=120s"];
    /// Bounds for workloads of the corpus: shorter than the time limit for sleepers, and longer than the
    /// sleep of any healthy workload.
    pub const CORPUS_HANG_AFTER: [&str; 2] = ["2s", "sleepers=10s"];
    /// Runtime of healthy workloads of the corpus: long enough for a false alarm to show.
    pub const HEALTHY: Duration = Duration::from_secs(4);
    /// Time for workloads that never boot: the bundled guest boots in milliseconds.
    pub const CORPUS_READY_WITHIN: Duration = Duration::from_secs(5);
}

/// Maximum number of VMs in a suite; more are a mistake in a matrix.
const MAX_VMS: usize = 100_000;

/// Number of values per matrix key that are compared with each other; duplicates beyond show by equal VM
/// names.
const MAX_COMPARED_VALUES: usize = 1000;

/// Expands a suite to its VMs. Relative paths are relative to `base`.
pub(super) fn expand(
    written: &SuiteFile,
    base: &Path,
) -> Result<(Vec<SuiteVm>, Vec<LeftOut>), Vec<Problem>> {
    let mut expansion = Expansion::default();
    let mut problems = Vec::new();
    for vm in &written.vm {
        let vm = VmContext { written: vm, defaults: &written.defaults, base };
        if let Err(problem) = vm.expand(&mut expansion) {
            // A mistake in `defaults` is in every VM, and is reported once.
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
    if problems.is_empty() { Ok((expansion.vms, expansion.left_out)) } else { Err(problems) }
}

#[derive(Default)]
struct Expansion {
    vms: Vec<SuiteVm>,
    left_out: Vec<LeftOut>,
    /// Name of each VM, with the offset of the entry that made it.
    names: HashMap<String, usize>,
}

/// A VM's entry with the suite's defaults and the directory for relative paths.
struct VmContext<'a> {
    written: &'a VmTable,
    defaults: &'a Settings,
    base: &'a Path,
}

/// Returns the value of a key: the VM's own, or else that of `defaults`.
macro_rules! value {
    ($context:ident.$key:ident) => {
        $context.written.settings.$key.as_ref().or($context.defaults.$key.as_ref())
    };
}

/// A combination of a matrix's values: a suffix of the VM's name, and the values of the keys.
#[derive(Clone, Default)]
struct Combination<'a> {
    suffix: String,
    cpus: Option<u32>,
    memory: Option<u64>,
    append: Option<&'a str>,
}

impl<'a> VmContext<'a> {
    fn expand(&self, expansion: &mut Expansion) -> Result<(), Problem> {
        self.check_parameters()?;
        let combinations = self.combinations()?;
        let rows = self.rows()?;
        if expansion.vms.len() + combinations.len() * rows.len() > MAX_VMS {
            return Err(self.too_many());
        }
        for row in rows {
            for combination in &combinations {
                self.make(row, combination, expansion)?;
            }
        }
        Ok(())
    }

    /// Adds the VM of one combination and one workload.
    fn make(
        &self,
        row: Option<&'static Row>,
        combination: &Combination<'a>,
        expansion: &mut Expansion,
    ) -> Result<(), Problem> {
        let mut name = self.written.name.get_ref().0.clone();
        if let Some(row) = row {
            name = format!("{name}/{}", row.name);
        }
        name.push_str(&combination.suffix);
        let here = self.name_span().start;
        if let Some(first) = expansion.names.insert(name.clone(), here) {
            let message = format!("two VMs are called `{name}`");
            return Err(Problem::duplicate(self.name_span(), message, first));
        }
        let vm = self.vm(name, combination);
        match row {
            Some(row) if vm.cpus < row.min_cpus() => {
                let reason = too_few_cpus(row, vm.cpus);
                expansion.left_out.push(LeftOut { name: vm.name, reason });
                return Ok(());
            }
            Some(row) => expansion.vms.push(self.checked(self.with_label(row, vm))?),
            None => expansion.vms.push(self.checked(vm)?),
        }
        Ok(())
    }

    fn name_span(&self) -> Range<usize> {
        self.written.name.span()
    }

    fn too_many(&self) -> Problem {
        Problem::new(self.name_span(), format!("the suite has more than {MAX_VMS} VMs with these"))
    }

    /// Path of the image; `None` for the bundled guest.
    fn image(&self) -> Option<&'a str> {
        value!(self.image).map(String::as_str).filter(|image| *image != BUNDLED)
    }

    /// Checks that no kernel parameter is given twice, and the bundled guest's workload only by its key:
    /// without the key, the VM would run all workloads, each beside that one.
    fn check_parameters(&self) -> Result<(), Problem> {
        let matrix =
            self.written.matrix.as_ref().and_then(|matrix| matrix.get_ref().append.as_ref());
        let of_matrix = matrix.into_iter().flat_map(Spanned::get_ref);
        let own = value!(self.append).filter(|_| matrix.is_none());
        let is_bundled = self.image().is_none();
        for append in own.into_iter().chain(of_matrix) {
            let text = append.get_ref().0.as_str();
            let wrong = |message: String| Err(Problem::new(append.span(), message));
            if let Some(workload) = kernel_parameters::workload(text, is_bundled) {
                if is_bundled {
                    return wrong(format!(
                        "the key `workload` names the bundled guest's workload, and `append` does not: \
                         workload = {workload:?}"
                    ));
                }
                if value!(self.workload).is_some() {
                    let message = "the kernel parameter `workload` is given twice, by the key `workload` \
                                   and in `append`";
                    return wrong(message.into());
                }
            }
            if let Err(repeated) = kernel_parameters::check(text, is_bundled) {
                return wrong(repeated.to_string());
            }
        }
        Ok(())
    }

    /// Returns the workloads that `*` stands for; otherwise `None`, once.
    fn rows(&self) -> Result<Vec<Option<&'static Row>>, Problem> {
        let Some(workload) = value!(self.workload) else {
            if self.image().is_some() {
                return Ok(vec![None]);
            }
            // An entry that names the bundled guest and no workload means all workloads.
            if value!(self.image).is_some() {
                return self.whole_corpus();
            }
            let message =
                "the bundled guest does nothing without a `workload`: name one, or * for all";
            return Err(Problem::new(self.name_span(), message));
        };
        let (name, span) = (workload.get_ref().0.as_str(), workload.span());
        if self.image().is_some() {
            if name == ALL_WORKLOADS {
                let message = "`*` needs the bundled guest, whose workloads are known";
                return Err(Problem::new(span, message));
            }
            return Ok(vec![None]);
        }
        if name == ALL_WORKLOADS {
            return self.whole_corpus();
        }
        match corpus::find_written(name) {
            Ok(_) => Ok(vec![None]),
            Err(unknown) => Err(Problem::new(span, unknown.to_string())),
        }
    }

    fn whole_corpus(&self) -> Result<Vec<Option<&'static Row>>, Problem> {
        match &self.written.settings.expect {
            None => Ok(corpus::ROWS.iter().map(Some).collect()),
            Some(expect) => {
                let message = "with all workloads, each is expected to end as its label says: leave out `expect`";
                Err(Problem::new(expect.span(), message))
            }
        }
    }

    fn combinations(&self) -> Result<Vec<Combination<'a>>, Problem> {
        let one = vec![Combination::default()];
        let Some(matrix) = &self.written.matrix else { return Ok(one) };
        let Matrix { cpus, memory, append } = matrix.get_ref();
        let own = &self.written.settings;
        let lengths = [
            check_dimension("cpus", cpus.as_ref(), own.cpus.as_ref())?,
            check_dimension("memory", memory.as_ref(), own.memory.as_ref())?,
            check_dimension("append", append.as_ref(), own.append.as_ref())?,
        ];
        if lengths.iter().all(Option::is_none) {
            let message = "an empty matrix: expected cpus, memory or append";
            return Err(Problem::new(matrix.span(), message));
        }
        if lengths.into_iter().flatten().fold(1, usize::saturating_mul) > MAX_VMS {
            return Err(self.too_many());
        }
        let combinations = multiply(one, cpus.as_ref(), |combination, Cpus(cpus)| {
            combination.suffix.push_str(&format!("/cpus={cpus}"));
            combination.cpus = Some(*cpus);
        });
        let combinations = multiply(combinations, memory.as_ref(), |combination, size| {
            combination.suffix.push_str(&format!("/memory={}", size.text));
            combination.memory = Some(size.bytes);
        });
        Ok(multiply(combinations, append.as_ref(), |combination, KernelParameters(append)| {
            combination.suffix.push_str(&format!("/append={append}"));
            combination.append = Some(append);
        }))
    }

    /// Builds the VM without the expectations that come with its workload's label.
    fn vm(&self, name: String, combination: &Combination<'a>) -> SuiteVm {
        let cpus = value!(self.cpus).map(|cpus| cpus.get_ref().0);
        let memory = value!(self.memory).map(|memory| memory.get_ref().bytes);
        let append = value!(self.append).map(|append| append.get_ref().0.as_str());
        let hang_after = value!(self.hang_after).map(HangBounds::to_arguments);
        let expect = value!(self.expect).map(|expect| expect.get_ref().expectation());
        let tags = value!(self.tags).into_iter().flatten().map(|tag| tag.0.clone());
        SuiteVm {
            name,
            image: self.image().map(|path| self.base.join(path)),
            initrd: value!(self.initrd).map(|path| self.base.join(path)),
            workload: value!(self.workload).map(|workload| workload.get_ref().0.clone()),
            append: combination.append.or(append).unwrap_or_default().to_owned(),
            cpus: combination.cpus.or(cpus).unwrap_or(default::CPUS),
            memory: combination.memory.or(memory).unwrap_or(default::MEMORY),
            time_limit: value!(self.time_limit).map_or(default::TIME_LIMIT, |limit| limit.0),
            stop_after: value!(self.stop_after).map(|time| time.0).filter(|time| !time.is_zero()),
            ready_within: value!(self.ready_within).map_or(default::READY_WITHIN, |time| time.0),
            hang_after: hang_after.unwrap_or_else(|| default::HANG_AFTER.map(Into::into).to_vec()),
            retries: value!(self.retries).copied().unwrap_or(0),
            tags: tags.collect(),
            expect: expect.unwrap_or(Expectation::Pass),
            console: value!(self.console).map_or_else(ConsoleRules::default, console),
        }
    }

    /// Completes a VM with its workload's label, which says how it is expected to end.
    fn with_label(&self, row: &'static Row, vm: SuiteVm) -> SuiteVm {
        let expected = row.expected();
        // Only a healthy workload is stopped: others end or hang by themselves.
        let stop_after = (expected == Expected::Healthy)
            .then(|| vm.stop_after.unwrap_or(default::HEALTHY.min(vm.time_limit / 2)));
        let said = value!(self.ready_within).is_some();
        let ready_within = match expected {
            Expected::Hang(class) if class.is_before_ready() && !said => {
                default::CORPUS_READY_WITHIN
            }
            _ => vm.ready_within,
        };
        let hang_after = match value!(self.hang_after) {
            Some(_) => vm.hang_after,
            None => default::CORPUS_HANG_AFTER.map(Into::into).to_vec(),
        };
        let expect = expectation(row, vm.cpus);
        SuiteVm {
            workload: Some(row.name.into()),
            stop_after,
            ready_within,
            hang_after,
            expect,
            ..vm
        }
    }

    /// Checks combinations of keys, which no single key can violate.
    fn checked(&self, vm: SuiteVm) -> Result<SuiteVm, Problem> {
        if let Some(stop_after) = vm.stop_after.filter(|stop| *stop >= vm.time_limit) {
            let message = format!(
                "`stop-after` ({stop_after:?}) is not before `time-limit` ({:?}): the VM can never pass",
                vm.time_limit
            );
            return Err(Problem::new(self.name_span(), message));
        }
        if let (None, Some(workload)) = (&vm.image, value!(self.workload)) {
            let row = corpus::find(&workload.get_ref().0);
            if let Some(row) = row.filter(|row| vm.cpus < row.min_cpus()) {
                let message = format!("`{}`: {}", vm.name, too_few_cpus(row, vm.cpus));
                return Err(Problem::new(workload.span(), message));
            }
        }
        if let Some(culprit) = missing_culprit(&vm) {
            let span = value!(self.expect).map_or_else(|| self.name_span(), Spanned::span);
            let message =
                format!("`{culprit}` cannot be to blame: `{}` has {} vCPUs", vm.name, vm.cpus);
            return Err(Problem::new(span, message));
        }
        Ok(vm)
    }
}

/// Returns an expected culprit that the VM does not have.
fn missing_culprit(vm: &SuiteVm) -> Option<&str> {
    let Expectation::Hang { blamed: Some(blamed), .. } = &vm.expect else { return None };
    let number = |name: &str| name.strip_prefix("cpu")?.parse::<u32>().ok();
    let mut blamed = blamed.iter().map(String::as_str);
    blamed.find(|name| number(name).is_some_and(|cpu| cpu >= vm.cpus))
}

fn too_few_cpus(row: &Row, cpus: u32) -> String {
    format!("{} needs {} vCPUs, not {cpus}", row.name, row.min_cpus())
}

/// Converts a workload's label to the expected end of a VM with that many vCPUs.
fn expectation(row: &Row, cpus: u32) -> Expectation {
    match row.expected() {
        Expected::Hang(class) => {
            let first = row.hangs(cpus).into_iter().next().map(|(_, blamed)| blamed);
            Expectation::Hang { class: Some(class), blamed: first }
        }
        Expected::Panic => Expectation::Panic { message: None },
        Expected::TripleFault => Expectation::Crash,
        Expected::Exit(0) | Expected::Healthy => Expectation::Pass,
        Expected::Exit(code) => Expectation::Exit { code },
    }
}

fn console(written: &ConsoleTable) -> ConsoleRules {
    let texts = |expressions: &[Spanned<Expression>]| {
        expressions.iter().map(|expression| expression.get_ref().0.clone()).collect()
    };
    ConsoleRules { must: texts(&written.must), must_not: texts(&written.must_not) }
}

/// Returns the number of values that a matrix has for a key, after checking that there is one, that none
/// is there twice, and that the VM does not set the key itself.
fn check_dimension<T: PartialEq>(
    key: &str,
    values: Option<&Spanned<Vec<Spanned<T>>>>,
    own: Option<&Spanned<T>>,
) -> Result<Option<usize>, Problem> {
    let Some(values) = values else { return Ok(None) };
    let (values, span) = (values.get_ref(), values.span());
    if values.is_empty() {
        return Err(Problem::new(span, format!("no value for `{key}`: this makes no VM at all")));
    }
    if let Some(own) = own {
        return Err(Problem::new(own.span(), format!("`{key}` is in the matrix too")));
    }
    for (index, value) in values.iter().enumerate().take(MAX_COMPARED_VALUES) {
        if let Some(first) = values[..index].iter().find(|other| other.get_ref() == value.get_ref())
        {
            return Err(Problem::duplicate(
                value.span(),
                "the same value twice",
                first.span().start,
            ));
        }
    }
    Ok(Some(values.len()))
}

/// Multiplies the combinations by a key's values; without values, returns them unchanged.
fn multiply<'a, T>(
    combinations: Vec<Combination<'a>>,
    values: Option<&'a Spanned<Vec<Spanned<T>>>>,
    add: impl Fn(&mut Combination<'a>, &'a T),
) -> Vec<Combination<'a>> {
    let Some(values) = values else { return combinations };
    let with_each = combinations.iter().flat_map(|combination| {
        values.get_ref().iter().map(|value| {
            let mut combination = combination.clone();
            add(&mut combination, value.get_ref());
            combination
        })
    });
    with_each.collect()
}
