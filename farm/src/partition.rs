//! `--partition`: the part of a suite that runs on this host, where several hosts share the suite.
//!
//! `hash:2/8` selects a VM by its name alone, so that a VM keeps its part when others are added or
//! removed. `count:2/8` deals the VMs out in order, so that the sizes of parts differ by at most one.
//! Parts are numbered from 1; together, all parts of one method hold each VM of the suite once.
//!
//! Owns the syntax and the choice; refuses to own the plan (`plan`, which calls it).

use std::fmt;
use std::str::FromStr;

use nmiscope_report::nearest;
use sha2::{Digest, Sha256};

/// A part of a suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Method by which the suite is divided.
    pub by: PartitionBy,
    /// Index of the part, from 0.
    pub part: u64,
    /// Number of parts of the suite.
    pub parts: u64,
}

/// Methods of assigning VMs to parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartitionBy {
    /// Hash of the VM's name.
    Hash,
    /// Position of the VM in the suite.
    Count,
}

impl Partition {
    /// True if the part holds the VM at `position`, counted from 0 among those that the filter selects.
    pub fn contains(&self, position: usize, name: &str) -> bool {
        let number = match self.by {
            PartitionBy::Hash => hash(name),
            PartitionBy::Count => position as u64,
        };
        number % self.parts == self.part
    }
}

/// Returns the first eight bytes of the name's SHA-256 as a big-endian number, equal in every version and
/// on every host.
fn hash(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().take(8).fold(0, |hash, &byte| hash << 8 | u64::from(byte))
}

/// Reason why a text names no part of a suite.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// The text has another form than `METHOD:PART/PARTS`.
    #[error("expected a part, as in hash:1/4 or count:1/4")]
    InvalidForm,
    /// The text names a method that does not exist.
    #[error("no `{by}`; {}", nearest::hint(by, &["hash", "count"]))]
    UnknownMethod {
        /// Method as the text names it.
        by: String,
    },
    /// The part's number is 0 or above the number of parts.
    #[error("there is no part {part} of {parts}")]
    NoSuchPart {
        /// Number of the part, from 1.
        part: u64,
        /// Number of parts in all.
        parts: u64,
    },
}

impl FromStr for Partition {
    type Err = PartitionError;

    fn from_str(text: &str) -> Result<Self, PartitionError> {
        let wrong = || PartitionError::InvalidForm;
        let (by, numbers) = text.split_once(':').ok_or_else(wrong)?;
        let by = match by {
            "hash" => PartitionBy::Hash,
            "count" => PartitionBy::Count,
            by => return Err(PartitionError::UnknownMethod { by: by.into() }),
        };
        let (part, parts) = numbers.split_once('/').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let (part, parts) = (number(part)?, number(parts)?);
        if !(1..=parts).contains(&part) {
            return Err(PartitionError::NoSuchPart { part, parts });
        }
        Ok(Self { by, part: part - 1, parts })
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.by {
            PartitionBy::Hash => "hash",
            PartitionBy::Count => "count",
        };
        write!(f, "{by}:{}/{}", self.part + 1, self.parts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    fn partition(text: &str) -> Partition {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn invalid_partitions_are_refused_with_a_reason() {
        let rows = [
            ("", "expected a part"),
            ("1/2", "expected a part"),
            ("hash:2", "expected a part"),
            ("hash:a/2", "expected a part"),
            ("count:-1/2", "expected a part"),
            ("hahs:1/2", "no `hahs`; did you mean `hash`?"),
            ("hash:0/2", "there is no part 0 of 2"),
            ("count:3/2", "there is no part 3 of 2"),
            ("count:1/0", "there is no part 1 of 0"),
        ];
        for (text, message) in rows {
            let error = text.parse::<Partition>().unwrap_err();
            assert!(error.to_string().starts_with(message), "{text}: {error}");
        }
        for text in ["hash:1/1", "count:7/8"] {
            assert_eq!(partition(text).to_string(), text);
        }
    }

    /// Expected values: the first 16 digits of `printf %s NAME | sha256sum`; the part is that modulo 8,
    /// plus 1.
    #[test]
    fn name_hashes_equal_those_of_sha256sum() {
        let rows = [
            ("boot/cpus=1", 0x49c4_1ddb_6bc4_b91e, 7),
            ("boot/cpus=8", 0x8c2e_9a81_4831_f480, 1),
            ("storage/abba", 0x845d_5984_42e7_7b52, 3),
            ("", 0xe3b0_c442_98fc_1c14, 5),
        ];
        for (name, hashed, part) in rows {
            assert_eq!(hash(name), hashed, "{name}");
            assert!(partition(&format!("hash:{part}/8")).contains(0, name), "{name}");
        }
    }

    #[test]
    fn sizes_of_counted_parts_differ_by_at_most_one() {
        for parts in 1..=8u64 {
            let size = |part| {
                let partition = partition(&format!("count:{part}/{parts}"));
                (0..29).filter(|&position| partition.contains(position, "")).count()
            };
            let sizes: Vec<usize> = (1..=parts).map(size).collect();
            let spread = sizes.iter().max().unwrap() - sizes.iter().min().unwrap();
            assert!(spread <= 1 && sizes.iter().sum::<usize>() == 29, "{sizes:?}");
        }
    }

    proptest! {
        #[test]
        fn every_vm_is_in_exactly_one_part(
            names in vec(".{0,12}", 0..40),
            parts in 1..12u64,
            by in prop_oneof![Just("hash"), Just("count")],
        ) {
            let all: Vec<Partition> =
                (1..=parts).map(|part| partition(&format!("{by}:{part}/{parts}"))).collect();
            for (position, name) in names.iter().enumerate() {
                let of = all.iter().filter(|partition| partition.contains(position, name)).count();
                prop_assert_eq!(of, 1, "{}", name);
            }
        }

        #[test]
        fn vm_keeps_its_hashed_part_when_others_are_added(
            names in btree_set("[a-z/]{1,8}", 1..20),
            more in 1..20usize,
            parts in 1..12u64,
        ) {
            let first = partition(&format!("hash:1/{parts}"));
            for (position, name) in names.iter().enumerate() {
                prop_assert_eq!(first.contains(position, name), first.contains(position + more, name));
            }
        }
    }
}
