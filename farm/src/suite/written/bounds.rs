//! Bounds of hangs: one, a list, or a table by class.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Bound, BoundOfSome};

/// Bounds of hangs.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum HangAfterWritten {
    /// One for all classes, or for one class.
    One(BoundOfSome),
    /// Several, each for all classes or for one.
    Several(Vec<BoundOfSome>),
    /// One for each class that is named.
    ByClass(Box<ByClass>),
}

/// Bounds of hangs by class.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ByClass {
    /// Of all classes that are not named.
    pub general: Option<Bound>,
    /// A cycle of CPUs and tasks that wait for each other.
    pub deadlock: Option<Bound>,
    /// A CPU halted with interrupts off.
    pub dead_halt: Option<Bound>,
    /// A CPU that takes no timer interrupts and schedules nothing.
    pub hard_lockup: Option<Bound>,
    /// A CPU that takes interrupts, and schedules nothing.
    pub soft_lockup: Option<Bound>,
    /// A wait for a lock that nobody is going to release.
    pub lock_wait: Option<Bound>,
    /// Work that its CPU does not do, although it makes progress.
    pub livelock: Option<Bound>,
    /// Work whose CPU idles.
    pub lost_wakeup: Option<Bound>,
    /// A guest of which nothing is known, and which prints nothing.
    pub silent: Option<Bound>,
    /// A vCPU that the host does not run.
    pub starved: Option<Bound>,
}

impl HangAfterWritten {
    /// As `run --hang-after` has them.
    pub fn to_arguments(&self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one.0.clone()],
            Self::Several(several) => several.iter().map(|bound| bound.0.clone()).collect(),
            Self::ByClass(by_class) => by_class.to_arguments(),
        }
    }
}

impl ByClass {
    fn to_arguments(&self) -> Vec<String> {
        let general = self.general.iter().map(|bound| bound.0.clone());
        let rows = [
            ("deadlock", &self.deadlock),
            ("dead-halt", &self.dead_halt),
            ("hard-lockup", &self.hard_lockup),
            ("soft-lockup", &self.soft_lockup),
            ("lock-wait", &self.lock_wait),
            ("livelock", &self.livelock),
            ("lost-wakeup", &self.lost_wakeup),
            ("silent", &self.silent),
            ("starved", &self.starved),
        ];
        let named = rows.into_iter().filter_map(|(class, bound)| Some((class, bound.as_ref()?)));
        general.chain(named.map(|(class, bound)| format!("{class}={}", bound.0))).collect()
    }
}

impl<'de> Deserialize<'de> for HangAfterWritten {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HangAfterVisitor)
    }
}

struct HangAfterVisitor;

impl<'de> Visitor<'de> for HangAfterVisitor {
    type Value = HangAfterWritten;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration in quotes, as in \"2s\", or a list or a table of them")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let bound = BoundOfSome::deserialize(StrDeserializer::new(text))?;
        Ok(HangAfterWritten::One(bound))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut several = Vec::new();
        while let Some(bound) = seq.next_element()? {
            several.push(bound);
        }
        Ok(HangAfterWritten::Several(several))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        ByClass::deserialize(MapAccessDeserializer::new(map))
            .map(|by_class| HangAfterWritten::ByClass(Box::new(by_class)))
    }
}
