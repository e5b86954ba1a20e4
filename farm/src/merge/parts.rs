//! Missing parts of a divided suite.

use std::collections::BTreeSet;

use crate::partition::{Partition, PartitionBy};

/// Maximum number of missing parts that are named.
const MAX_NAMED: usize = 10;

/// Returns the parts missing from the division that `parts` belong to, and warnings about parts that do
/// not fit together. `None` in `parts` stands for a whole suite.
pub fn missing<'a>(parts: impl Iterator<Item = Option<&'a str>>) -> (Vec<String>, Vec<String>) {
    let parts: Vec<Option<&str>> = parts.collect();
    let all: Option<Vec<&str>> = parts.iter().copied().collect();
    let Some(all) = all else {
        let is_mixed = parts.len() > 1;
        let warning = is_mixed
            .then(|| "some of the results are for a whole suite, others for a part of one".into());
        return (Vec::new(), warning.into_iter().collect());
    };
    let Ok(read) = all.iter().map(|part| part.parse()).collect::<Result<Vec<Partition>, _>>()
    else {
        return (Vec::new(), vec![format!("not all of these are parts: {}", all.join(", "))]);
    };
    let divisions: BTreeSet<(PartitionBy, u64)> =
        read.iter().map(|part| (part.by, part.parts)).collect();
    let (Some(&(by, parts)), 1) = (divisions.first(), divisions.len()) else {
        let warning = (!all.is_empty())
            .then(|| format!("these are not parts of one division: {}", all.join(", ")));
        return (Vec::new(), warning.into_iter().collect());
    };
    let there: BTreeSet<u64> = read.iter().map(|part| part.part).collect();
    let missing = (0..parts).filter(|part| !there.contains(part));
    let missing = missing.take(MAX_NAMED).map(|part| Partition { by, part, parts }.to_string());
    (missing.collect(), Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_parts_are_named_and_mismatched_parts_warned_about() {
        /// Row of present parts, missing parts, and a word of the warning.
        type Row = (&'static [Option<&'static str>], &'static [&'static str], &'static str);
        let rows: &[Row] = &[
            (&[], &[], ""),
            (&[None], &[], ""),
            (&[Some("hash:1/2"), Some("hash:2/2")], &[], ""),
            (&[Some("hash:2/2"), Some("hash:2/2")], &["hash:1/2"], ""),
            (&[Some("count:2/4")], &["count:1/4", "count:3/4", "count:4/4"], ""),
            (&[Some("hash:1/2"), Some("hash:2/3")], &[], "division"),
            (&[Some("hash:1/2"), Some("count:2/2")], &[], "division"),
            (&[Some("hash:1/2"), None], &[], "whole suite"),
            (&[Some("hash:3/2")], &[], "not all of these"),
            (&[Some("some")], &[], "not all of these"),
        ];
        for (parts, wanted, warning) in rows {
            let (missing, warnings) = missing(parts.iter().copied());
            assert_eq!(missing, *wanted, "{parts:?}");
            assert_eq!(warnings.is_empty(), warning.is_empty(), "{parts:?}: {warnings:?}");
            assert!(warnings.iter().all(|text| text.contains(warning)), "{parts:?}: {warnings:?}");
        }
        let (missing, _) = missing([Some("hash:1/18446744073709551615")].into_iter());
        assert_eq!(missing.len(), MAX_NAMED);
    }
}
