//! The last minute before a backtrace: for each vCPU its ticks, schedules and interrupts, and the time that
//! the host gave it, in slots of equal length.
//!
//! Owns these types and their JSON; refuses to own how they are recorded (the tool's detector) and drawn
//! (`strips`). Filled by the tool's diagnosis. A member that is not known is absent, and a single number is
//! null: neither is 0.

use schemars::JsonSchema;
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::class::Class;

/// The last minute before a backtrace, or the time since the start if that is shorter.
///
/// The minute is divided into slots of equal length. The first slot begins at `starts_at_ms`, and the last
/// one ends early, at `ends_at_ms`. Counts belong to the slot in which they were read: observations are a
/// tenth of a second apart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// Start of the first slot, in milliseconds since the tool's start.
    pub starts_at_ms: f64,
    /// Time of the last observation, at which the last slot ends, in milliseconds since the tool's start.
    pub ends_at_ms: f64,
    /// Length of a slot, in milliseconds: longer for a machine with many vCPUs.
    pub slot_ms: u32,
    /// Wall-clock time of each slot in which the guest was observed and not stopped by the tool, in
    /// milliseconds.
    pub wall_ms: Series,
    /// Wall-clock time of each slot in which the tool had stopped the guest, in milliseconds; absent where it
    /// never had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_ms: Option<Series>,
    /// Histories of all vCPUs, by the number of the vCPU.
    pub cpus: Vec<CpuHistory>,
    /// Suspicions in order of their beginnings, up to 16: those that hold at the end, and those that lasted
    /// for a second.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspicions: Vec<PastSuspicion>,
    /// NMIs in order of time: those of this backtrace, and of earlier ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nmis: Vec<PastNmis>,
}

/// The history of one vCPU. All series have a number for each slot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CpuHistory {
    /// Number of the vCPU, from 0.
    pub cpu: u32,
    /// Own time of the vCPU, in milliseconds: its thread ran, or slept because the vCPU was idle. Wall-clock
    /// time beyond it is time in which the host did not run the vCPU. Absent where the host does not count it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_ms: Option<Series>,
    /// Part of the own time in which the thread of the vCPU ran, in milliseconds; absent where the host does
    /// not count it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_ms: Option<Series>,
    /// Timer ticks, by the kernel's count; absent where the kernel is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticks: Option<Series>,
    /// Iterations of the kernel's main loop, which is its scheduler; absent where the kernel is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedules: Option<Series>,
    /// Interrupts that the vCPU took, by the kernel's count, or else by the host's, which may miss some;
    /// absent where neither counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupts: Option<Series>,
    /// HLT instructions that the vCPU executed, by the host's count; absent where the host does not count
    /// them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halts: Option<Series>,
}

/// A suspicion of a hang that began before the backtrace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PastSuspicion {
    /// Class of the suspected hang.
    pub class: Class,
    /// CPUs and tasks that are suspected, up to 64, by their ids in the backtrace's `waits`.
    pub parties: Vec<String>,
    /// Time of the last progress of a suspected party, in milliseconds since the tool's start.
    pub began_at_ms: f64,
    /// Time at which the suspicion was found to be over, in milliseconds since the tool's start; absent where
    /// it holds at the end of the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<f64>,
}

/// NMIs that were sent for one backtrace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PastNmis {
    /// Time of the backtrace that they were sent for, in milliseconds since the tool's start.
    pub at_ms: f64,
    /// Numbers of the vCPUs that they were sent to.
    #[serde(serialize_with = "one_line")]
    pub cpus: Vec<u32>,
}

/// A list of numbers, one for each slot, oldest first; null where the number is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct Series(pub Vec<Option<u32>>);

impl Series {
    /// Returns the number of a slot; `None` if it is not known.
    pub fn get(&self, slot: usize) -> Option<u32> {
        self.0.get(slot).copied().flatten()
    }
}

impl FromIterator<Option<u32>> for Series {
    fn from_iter<I: IntoIterator<Item = Option<u32>>>(numbers: I) -> Self {
        Self(numbers.into_iter().collect())
    }
}

impl Serialize for Series {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        one_line(&self.0, to)
    }
}

/// Writes all numbers in one line: a report with a line for each would be several times as long.
fn one_line<T: Serialize, S: Serializer>(numbers: &[T], to: S) -> Result<S::Ok, S::Error> {
    let text = serde_json::to_string(numbers).map_err(S::Error::custom)?;
    RawValue::from_string(text).map_err(S::Error::custom)?.serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_is_one_line_of_indented_json() {
        let series = Series(vec![Some(50), None, Some(0)]);
        let text = serde_json::to_string_pretty(&[&series]).unwrap();
        assert_eq!(text, "[\n  [50,null,0]\n]");
        assert_eq!(serde_json::from_str::<Vec<Series>>(&text).unwrap(), [series]);
    }

    #[test]
    fn member_that_is_not_known_is_absent() {
        let cpu = CpuHistory { cpu: 3, ..CpuHistory::default() };
        assert_eq!(serde_json::to_string(&cpu).unwrap(), r#"{"cpu":3}"#);
        assert_eq!(serde_json::from_str::<CpuHistory>(r#"{"cpu":3}"#).unwrap(), cpu);
    }
}
