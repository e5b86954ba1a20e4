//! Hang bounds in a suite: a single one, a list, or a table by class.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{ClassBound, HangBound};

/// Times without progress after which a hang is reported.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum HangBounds {
    /// Bound for all classes, or for one class.
    One(ClassBound),
    /// Several bounds, each for all classes or for one.
    Several(Vec<ClassBound>),
    /// Table of bounds by class.
    ByClass(Box<BoundsByClass>),
}

/// Table of hang bounds by class.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BoundsByClass {
    /// Bound for all classes that the table does not name.
    pub general: Option<HangBound>,
    /// Bound for a cycle of CPUs and tasks that wait for each other.
    pub deadlock: Option<HangBound>,
    /// Bound for a CPU halted with interrupts off.
    pub dead_halt: Option<HangBound>,
    /// Bound for a CPU that takes no timer interrupts and schedules nothing.
    pub hard_lockup: Option<HangBound>,
    /// Bound for a CPU that takes interrupts and schedules nothing.
    pub soft_lockup: Option<HangBound>,
    /// Bound for a wait for a lock that is never released.
    pub lock_wait: Option<HangBound>,
    /// Bound for pending work that a CPU neglects while making progress.
    pub livelock: Option<HangBound>,
    /// Bound for pending work whose CPU is idle.
    pub lost_wakeup: Option<HangBound>,
    /// Bound for an unknown kernel that prints nothing.
    pub silent: Option<HangBound>,
    /// Bound for a vCPU that the host does not schedule.
    pub starved: Option<HangBound>,
    /// Bound for hangs whose waiters all sleep, in classes that the table does not name.
    pub sleepers: Option<HangBound>,
}

impl HangBounds {
    /// Converts the bounds to values of `run --hang-after`.
    pub fn to_arguments(&self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one.0.clone()],
            Self::Several(several) => several.iter().map(|bound| bound.0.clone()).collect(),
            Self::ByClass(by_class) => by_class.to_arguments(),
        }
    }
}

impl BoundsByClass {
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
            ("sleepers", &self.sleepers),
        ];
        let named = rows.into_iter().filter_map(|(class, bound)| Some((class, bound.as_ref()?)));
        general.chain(named.map(|(class, bound)| format!("{class}={}", bound.0))).collect()
    }
}

impl<'de> Deserialize<'de> for HangBounds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HangAfterVisitor)
    }
}

struct HangAfterVisitor;

impl<'de> Visitor<'de> for HangAfterVisitor {
    type Value = HangBounds;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration in quotes, as in \"2s\", or a list or a table of them")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let bound = ClassBound::deserialize(StrDeserializer::new(text))?;
        Ok(HangBounds::One(bound))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut several = Vec::new();
        while let Some(bound) = seq.next_element()? {
            several.push(bound);
        }
        Ok(HangBounds::Several(several))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        BoundsByClass::deserialize(MapAccessDeserializer::new(map))
            .map(|by_class| HangBounds::ByClass(Box::new(by_class)))
    }
}
