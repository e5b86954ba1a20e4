//! Tests of the strips by histories whose pictures are worked out by hand.

use super::*;
use crate::Class;
use crate::history::{CpuHistory, History, PastNmis, PastSuspicion, Series};
use crate::report::{BufferReservation, Trigger};

fn series(numbers: impl IntoIterator<Item = u32>) -> Option<Series> {
    Some(numbers.into_iter().map(Some).collect())
}

/// Returns a minute of `cpus`, in which each has its own time and ticks per slot of a second.
fn backtrace(cpus: Vec<CpuHistory>) -> Backtrace {
    let history = History {
        starts_at_ms: 10_000.0,
        ends_at_ms: 70_000.0,
        slot_ms: 1000,
        wall_ms: series([1000; 60]).unwrap(),
        cpus,
        ..History::default()
    };
    Backtrace {
        trigger: Trigger::Hang,
        at_ms: 70_000.0,
        reservation: BufferReservation::NotAsked,
        nmi_sent: 0,
        nmi_answered: 0,
        elapsed_ms: 0.0,
        cpus: Vec::new(),
        groups: Vec::new(),
        tasks: Vec::new(),
        sleeping_tasks: 0,
        waits: None,
        log: None,
        history: Some(history),
    }
}

fn cpu(cpu: u32, own: impl Fn(u32) -> u32, ticks: impl Fn(u32) -> u32) -> CpuHistory {
    CpuHistory {
        cpu,
        own_ms: series((0..60).map(&own)),
        ran_ms: series((0..60).map(&own)),
        ticks: series((0..60).map(&ticks)),
        schedules: series((0..60).map(&ticks)),
        interrupts: series((0..60).map(&ticks)),
        halts: None,
    }
}

fn healthy(number: u32) -> CpuHistory {
    cpu(number, |_| 1000, |_| 100)
}

/// vCPU without a tick for the last 30 s, in which it ran.
fn hung(number: u32) -> CpuHistory {
    cpu(number, |_| 1000, |slot| if slot < 30 { 100 } else { 0 })
}

/// vCPU without a tick for the last 30 s, in which the host did not run it.
fn starved(number: u32) -> CpuHistory {
    cpu(number, |slot| if slot < 30 { 1000 } else { 0 }, |slot| if slot < 30 { 100 } else { 0 })
}

/// Returns the path with that class in a picture's row.
fn path<'a>(svg: &'a str, row: usize, class: &str) -> &'a str {
    let row = svg.split("<g transform=\"translate(0 ").nth(row + 1).expect("a row");
    let row = row.split("</g>").next().unwrap();
    let Some(at) = row.find(&format!("class=\"{class}\" d=\"")) else { return "" };
    row[at..].split("d=\"").nth(1).unwrap().split('"').next().unwrap()
}

#[test]
fn hung_vcpu_and_starved_vcpu_differ_in_picture_and_words() {
    let taken = backtrace(vec![healthy(0), hung(1), starved(2)]);
    let svg = svg(&taken, "s").unwrap();
    // The axis has 600 pixels for 60 s, from 140 on; a band is 12 high, ticks are 8 high at 25.
    assert_eq!(path(&svg, 0, "strip-ran"), "M140 12v-12h600v12z");
    assert_eq!(path(&svg, 1, "strip-ran"), "M140 12v-12h600v12z");
    assert_eq!(path(&svg, 2, "strip-ran"), "M140 12v-12h300v12");
    assert_eq!(path(&svg, 2, "strip-starved"), "M140 12v-12h600v12z");
    assert_eq!(path(&svg, 0, "strip-ticks"), "M140 25v-8h600v8z");
    assert_eq!(path(&svg, 1, "strip-ticks"), "M140 25v-8h300v8");
    assert_eq!(
        sentences(&taken),
        [
            "cpu0: ticks until the end; it ran for 60.0 s and was idle for 0.0 s of 60.0 s",
            "cpu1: no tick for the last 30.0 s; it ran for 30.0 s and was idle for 0.0 s of them",
            "cpu2: no tick for the last 30.0 s; it ran for 0.0 s and was idle for 0.0 s of them: starved",
        ]
    );
    assert!(svg.contains(">no tick 30.0 s<") && svg.contains(">starved<"), "{svg}");
}

#[test]
fn series_that_is_not_known_has_no_line() {
    let unknown = CpuHistory { schedules: None, ..healthy(0) };
    let svg = svg(&backtrace(vec![unknown]), "s").unwrap();
    assert_eq!(path(&svg, 0, "strip-schedules"), "");
    assert_eq!(path(&svg, 0, "strip-base"), "M140 25H740M140 51H740");
    let neither = CpuHistory { cpu: 5, ..CpuHistory::default() };
    let taken = backtrace(vec![neither]);
    assert_eq!(sentences(&taken), ["cpu5: neither ticks nor interrupts are known"]);
}

#[test]
fn numbers_that_are_not_known_leave_a_gap() {
    let mut gap = healthy(0);
    gap.ticks.as_mut().unwrap().0[10..20].fill(None);
    let svg = svg(&backtrace(vec![gap]), "s").unwrap();
    assert_eq!(path(&svg, 0, "strip-ticks"), "M140 25v-8h100v8M340 25v-8h400v8z");
    assert!(path(&svg, 0, "strip-base").starts_with("M140 25H240M340 25H740"));
}

#[test]
fn suspicions_and_nmis_are_marked_where_they_were() {
    let mut taken = backtrace(vec![healthy(0), hung(1)]);
    let history = taken.history.as_mut().unwrap();
    history.suspicions.push(PastSuspicion {
        class: Class::HardLockup,
        parties: vec!["cpu1".into()],
        began_at_ms: 40_000.0,
        ended_at_ms: None,
    });
    history.nmis.push(PastNmis { at_ms: 70_000.0, cpus: vec![0, 1] });
    let svg = svg(&taken, "s").unwrap();
    assert_eq!(path(&svg, 0, "strip-since"), "");
    assert_eq!(path(&svg, 1, "strip-since"), "M440-5H740v3H440z");
    assert!(svg.contains(">hard-lockup suspected: cpu1<"), "{svg}");
    assert!(svg.contains(">NMI to all vCPUs<"), "{svg}");
    let figure = figure(&taken, "s").unwrap();
    for sentence in [
        "hard-lockup suspected since 30.0 s before the report: cpu1",
        "NMI to all vCPUs, at the report",
    ] {
        assert!(figure.contains(&format!("<li>{sentence}</li>")), "{figure}");
    }
    assert!(
        svg.contains("class=\"strip-began\" d=\"M440 ")
            && svg.contains("class=\"strip-nmi\" d=\"M740 ")
    );
}

/// Mark in the middle of the picture: it has the least room on both of its sides.
#[test]
fn text_of_a_mark_ends_within_the_picture() {
    let mut taken = backtrace(vec![hung(0)]);
    for middle in 30..50 {
        taken.history.as_mut().unwrap().suspicions = vec![PastSuspicion {
            class: Class::SoftLockup,
            parties: vec!["W".repeat(60); 5],
            began_at_ms: f64::from(middle) * 1000.0,
            ended_at_ms: None,
        }];
        let svg = svg(&taken, "s").unwrap();
        let (_, text) = svg.split_once("class=\"strip-mark\" ").unwrap();
        let number = |name| {
            let (_, rest) = text.split_once(&format!("{name}=\"")).unwrap();
            rest.split_once('"').unwrap().0
        };
        let x: usize = number("x").parse().unwrap();
        let (_, words) = text.split_once('>').unwrap();
        let words = words.split_once('<').unwrap().0;
        let room = if number("text-anchor") == "end" { x } else { 760 - x };
        assert!(
            words.starts_with("soft-lockup suspected: WWW") && words.ends_with('\u{2026}'),
            "{words}"
        );
        assert!(words.chars().count() * 8 <= room, "{words} at {x}");
    }
}

#[test]
fn stopped_time_is_drawn() {
    let mut taken = backtrace(vec![healthy(0)]);
    let stopped = (0..60).map(|slot| if slot == 5 { 900 } else { 0 });
    taken.history.as_mut().unwrap().stopped_ms = series(stopped);
    assert_eq!(path(&svg(&taken, "s").unwrap(), 0, "strip-stopped"), "M190 6H200");
}

#[test]
fn short_history_has_a_short_axis() {
    let mut taken = backtrace(vec![healthy(0)]);
    taken.history.as_mut().unwrap().starts_at_ms = 66_000.0;
    taken.history.as_mut().unwrap().wall_ms = series([1000; 4]).unwrap();
    let svg = svg(&taken, "s").unwrap();
    // Four seconds of five.
    assert_eq!(path(&svg, 0, "strip-ran"), "M260 12v-12h480v12z");
    assert!(svg.contains(">\u{2212}5 s<") && !svg.contains(">\u{2212}10 s<"), "{svg}");
}

/// Returns a history that changes in every slot, differently for every vCPU.
fn noisy(number: u32) -> CpuHistory {
    let noise = |slot: u32| (number * 7919 + slot * 104_729 + slot * slot * number) % 1000;
    cpu(number, noise, move |slot| noise(slot + 1) % 200)
}

#[test]
fn picture_of_64_vcpus_is_below_100_kilobytes() {
    let taken = backtrace((0..64).map(noisy).collect());
    let svg = svg(&taken, "s").unwrap();
    assert_eq!(svg.matches("class=\"strip-cpu").count(), 64);
    assert!(svg.len() < 100_000, "{}", svg.len());
}

#[test]
fn more_than_64_vcpus_share_rows_where_they_look_alike() {
    let mut cpus: Vec<CpuHistory> = (0..100).map(healthy).collect();
    cpus[70] = hung(70);
    let taken = backtrace(cpus);
    assert_eq!(
        sentences(&taken).iter().map(|text| text.split(':').next().unwrap()).collect::<Vec<_>>(),
        ["cpu0 to cpu69, cpu71 to cpu99", "cpu70"]
    );
    let figure = figure(&taken, "s").unwrap();
    assert!(figure.contains("99 vCPUs with an equal history share a row."), "{figure}");
}

#[test]
fn more_rows_than_64_are_counted_and_suspects_are_among_the_first() {
    let mut taken = backtrace((0..100).map(noisy).collect());
    taken.history.as_mut().unwrap().suspicions.push(PastSuspicion {
        class: Class::HardLockup,
        parties: vec!["cpu99".into()],
        began_at_ms: 0.0,
        ended_at_ms: None,
    });
    let figure = figure(&taken, "s").unwrap();
    assert!(figure.contains("36 more vCPUs are not drawn."), "{figure}");
    assert!(figure.contains(">cpu99<") && !figure.contains(">cpu98<"), "{figure}");
}

#[test]
fn hostile_history_is_bounded_and_escaped() {
    let mut taken = backtrace((0..2_000).map(healthy).collect());
    let history = taken.history.as_mut().unwrap();
    history.wall_ms = series(vec![u32::MAX; 1_000_000]).unwrap();
    history.slot_ms = u32::MAX;
    history.ends_at_ms = f64::MAX;
    history.suspicions = vec![
        PastSuspicion {
            class: Class::HardLockup,
            parties: vec!["<script>alert(1)</script>\u{1b}[2J".into(); 100],
            began_at_ms: f64::NEG_INFINITY,
            ended_at_ms: Some(f64::INFINITY),
        };
        1_000
    ];
    history.nmis = vec![PastNmis { at_ms: f64::MAX, cpus: vec![u32::MAX; 100] }; 1_000];
    let figure = figure(&taken, "s").unwrap();
    assert!(figure.len() < 100_000, "{}", figure.len());
    assert!(!figure.contains("<script") && !figure.contains('\u{1b}'));
    for (slots, slot_ms, end) in [(0, 1000, 70_000.0), (60, 0, 70_000.0), (60, 1000, f64::NAN)] {
        let history = taken.history.as_mut().unwrap();
        history.wall_ms = series(vec![1000; slots]).unwrap();
        (history.slot_ms, history.ends_at_ms) = (slot_ms, end);
        assert_eq!(svg(&taken, "s"), None);
    }
}

#[test]
fn report_without_a_past_says_why() {
    let former = include_bytes!("../../tests/former/abba-deadlock.json");
    let mut report = crate::json::read(former).unwrap();
    assert_eq!(svg(&report.backtraces[0], "s"), None);
    assert_eq!(sentences(&report.backtraces[0]), [""; 0]);
    report.source = Source::Dump;
    assert_eq!(missing(&report), "Nothing is recorded: a dump has no past.");
}
