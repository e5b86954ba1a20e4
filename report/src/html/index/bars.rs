//! Bars of counts by day, as one path of SVG.
//!
//! Owns the drawing, and its words for those who do not see it; refuses to own the counts. Called by `index`.

use std::collections::HashMap;
use std::fmt::Write as _;

use askama::Template;

use super::{Day, SafeLine};
use crate::units::plural;

/// Width of a bar and of the gap behind it, and greatest height of a bar, in CSS pixels.
const BAR: usize = 6;
const GAP: usize = 2;
const HEIGHT: u64 = 28;

/// A picture of counts by day, with a bar for each day that has a count.
#[derive(Debug, PartialEq, Eq, Template)]
#[template(path = "index/bars.svg")]
pub struct Bars {
    width: usize,
    height: u64,
    /// Outline of all bars, as the data of a path in SVG.
    path: String,
    /// Description of the picture in words, its title.
    words: String,
}

impl Bars {
    /// Draws the failed runs of all days; `None` if there are fewer than two days.
    pub fn of_days(days: &[Day]) -> Option<Self> {
        let counts: Vec<u64> = days.iter().map(|day| day.failed).collect();
        Self::new("failed run", days, &counts)
    }

    /// Draws the failures of a group on these days; `None` if there are fewer than two days.
    pub fn of_group(days: &[Day], by_day: &[(SafeLine, u64)]) -> Option<Self> {
        let by_name: HashMap<&str, u64> =
            by_day.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        let count = |day: &Day| by_name.get(day.name.as_str()).copied().unwrap_or(0);
        Self::new("failure", days, &days.iter().map(count).collect::<Vec<_>>())
    }

    fn new(noun: &str, days: &[Day], counts: &[u64]) -> Option<Self> {
        let [first, .., last] = days else { return None };
        let most = counts.iter().copied().max().unwrap_or(0);
        let mut path = String::new();
        for (at, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            // A count above 0 is visible, whatever the greatest is.
            let share = u128::from(count) * u128::from(HEIGHT) / u128::from(most);
            let height = (share as u64).max(2);
            let left = at * (BAR + GAP);
            let _ = write!(path, "M{left} {HEIGHT}v-{height}h{BAR}v{height}z");
        }
        let on_days = counts.iter().filter(|count| **count > 0).count();
        let words = format!(
            "{} from {} to {}, on {on_days} of {}, at most {most} a day",
            plural(counts.iter().fold(0, |sum, count| sum.saturating_add(*count)), noun),
            first.name,
            last.name,
            plural(days.len() as u64, "day")
        );
        Some(Self { width: days.len() * (BAR + GAP), height: HEIGHT, path, words })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(names: &[&str]) -> Vec<Day> {
        names.iter().map(|name| Day { name: SafeLine::new(name), ..Day::default() }).collect()
    }

    #[test]
    fn bars_have_the_heights_of_their_counts() {
        let days = days(&["2026-01-01", "2026-01-02", "2026-01-04"]);
        let by_day = [(days[0].name.clone(), 4), (days[2].name.clone(), 1)];
        let bars = Bars::of_group(&days, &by_day).unwrap();
        // A full bar of 28 pixels, none, and one of a quarter.
        assert_eq!(bars.path, "M0 28v-28h6v28zM16 28v-7h6v7z");
        let words = "5 failures from 2026-01-01 to 2026-01-04, on 2 of 3 days, at most 4 a day";
        assert_eq!(bars.words, words);
    }

    #[test]
    fn small_counts_are_visible_and_single_days_have_no_trend() {
        let two = days(&["a", "b"]);
        let by_day = [(two[0].name.clone(), u64::MAX), (two[1].name.clone(), 1)];
        let bars = Bars::of_group(&two, &by_day).unwrap();
        assert!(bars.path.ends_with("M8 28v-2h6v2z"), "{bars:?}");
        assert_eq!(Bars::of_group(&two[..1], &by_day), None);
        assert_eq!(Bars::of_days(&[]), None);
    }
}
