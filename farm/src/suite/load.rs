//! Parses TOML into the types of [`super::file`], and locates every mistake.
//!
//! The document is parsed once, into a tree that knows the position of its parts. Each table is then
//! deserialized. Where that fails, the faulty part is reported and removed, and the rest deserialized
//! again, so that all mistakes of a file are reported at once.

use std::collections::HashMap;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, ValueDeserializer};

use super::diagnostic::Problem;
use super::file::{Settings, SuiteFile, VmTable};
use crate::expression::{self, InvalidExpression};

/// Parses the text of a suite's file.
pub(super) fn read(text: &str) -> Result<SuiteFile, Vec<Problem>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // Further syntax errors only follow from the first.
        return Err(errors.iter().take(1).map(|error| Problem::from_toml(error, &[])).collect());
    }
    let mut problems = Vec::new();
    let mut written = SuiteFile::default();
    let mut has_vms = false;
    for (key, value) in root.into_inner() {
        match key.get_ref().as_ref() {
            "defaults" => written.defaults = read_table(value, &[], &mut problems),
            "vm" => {
                has_vms = true;
                written.vm = read_vms(value, &mut problems);
            }
            unknown => {
                let keys = ["defaults", "vm"];
                problems.push(Problem::unknown_key(key.span(), unknown, &keys));
            }
        }
    }
    if !has_vms {
        problems.push(Problem::new(0..0, "no [[vm]]: there is nothing to run"));
    }
    check_expressions(&written, &mut problems);
    if problems.is_empty() { Ok(written) } else { Err(problems) }
}

/// Checks each distinct regular expression once, and reports an invalid one at every place.
fn check_expressions(written: &SuiteFile, problems: &mut Vec<Problem>) {
    let mut known: HashMap<&str, Option<InvalidExpression>> = HashMap::new();
    let vms = written.vm.iter().map(|vm| &vm.settings);
    for text in vms.chain([&written.defaults]).flat_map(Settings::expressions) {
        let wrong =
            known.entry(&text.get_ref().0).or_insert_with_key(|text| expression::read(text).err());
        problems.extend(wrong.as_ref().map(|wrong| Problem::new(text.span(), wrong.to_string())));
    }
}

fn read_vms<'i>(value: Spanned<DeValue<'i>>, problems: &mut Vec<Problem>) -> Vec<VmTable> {
    let span = value.span();
    match value.into_inner() {
        DeValue::Array(vms) if !vms.is_empty() => {
            vms.into_iter().filter_map(|vm| read_vm(vm, problems)).collect()
        }
        _ => {
            problems.push(Problem::new(span, "VMs are written as [[vm]], one table each"));
            Vec::new()
        }
    }
}

/// Deserializes a VM: its name, its matrix, and the keys that `defaults` may have too.
fn read_vm<'i>(value: Spanned<DeValue<'i>>, problems: &mut Vec<Problem>) -> Option<VmTable> {
    let span = value.span();
    let DeValue::Table(mut table) = value.into_inner() else {
        problems.push(Problem::new(span, "a VM is a table: [[vm]]"));
        return None;
    };
    let name = table.remove("name");
    let matrix = table.remove("matrix");
    let rest = Spanned::new(span.clone(), DeValue::Table(table));
    let settings: Settings = read_table(rest, &["name", "matrix"], problems);
    let matrix = matrix.map(|matrix| {
        let span = matrix.span();
        Spanned::new(span, read_table(matrix, &[], problems))
    });
    let Some(name) = name else {
        problems.push(Problem::new(span, "a VM without a `name`"));
        return None;
    };
    match Spanned::deserialize(ValueDeserializer::from(name)) {
        Ok(name) => Some(VmTable { name, matrix, settings }),
        Err(error) => {
            problems.push(Problem::from_toml(&error, &[]));
            None
        }
    }
}

/// Deserializes a table without its faulty parts. `also` lists keys that the caller handles.
fn read_table<'i, T: Deserialize<'i> + Default>(
    value: Spanned<DeValue<'i>>,
    also: &[&str],
    problems: &mut Vec<Problem>,
) -> T {
    let span = value.span();
    let mut value = value.into_inner();
    loop {
        let whole = Spanned::new(span.clone(), value.clone());
        let error = match T::deserialize(ValueDeserializer::from(whole)) {
            Ok(read) => return read,
            Err(error) => error,
        };
        problems.push(Problem::from_toml(&error, also));
        let at = error.span().map_or(usize::MAX, |span| span.start);
        let DeValue::Table(table) = &mut value else { return T::default() };
        let Some(wrong) = part_at(table, at) else { return T::default() };
        table.remove(wrong.as_ref());
    }
}

/// Returns the key of the table's part at this offset.
fn part_at<'i>(table: &DeTable<'i>, at: usize) -> Option<DeString<'i>> {
    let mut parts = table.iter();
    let part = parts.find(|(key, value)| key.span().contains(&at) || stands_at(value, at));
    part.map(|(key, _)| key.get_ref().clone())
}

/// True if the value covers this offset; parts of a table with a header of its own may stand apart from
/// it.
fn stands_at(value: &Spanned<DeValue<'_>>, at: usize) -> bool {
    value.span().contains(&at)
        || match value.get_ref() {
            DeValue::Array(array) => array.iter().any(|value| stands_at(value, at)),
            DeValue::Table(table) => part_at(table, at).is_some(),
            _ => false,
        }
}
