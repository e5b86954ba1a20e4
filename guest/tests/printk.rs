//! printk, diverted and not, on a machine made of threads.
#![cfg(not(loom))]

mod common;

use std::{fmt, thread, time::Duration};

use common::{CPUS, ThreadMachine, log_of, machine, on_cpu, pass};
use nmiscope_guest::printk::{
    Busy, DoubleBegin, EndWithoutBegin, LogLevel, NMI_BUF_SIZE, Printk, log::LINE_MAX,
};

macro_rules! print {
    ($printk:expr, $($args:tt)*) => { $printk.vprintk(LogLevel::Info, format_args!($($args)*)) };
}

/// Runs an NMI on `cpu` whose handler prints `messages`.
fn nmi(printk: &Printk<ThreadMachine>, cpu: usize, messages: &[&str]) {
    on_cpu(cpu, || {
        printk.printk_nmi_backtrace_this_cpu_begin().unwrap();
        for message in messages {
            print!(printk, "{message}");
        }
        printk.printk_nmi_backtrace_this_cpu_end().unwrap();
    });
}

#[test]
fn a_message_goes_to_the_log_and_to_the_console() {
    let printk = machine();
    on_cpu(2, || assert_eq!(print!(printk, "hello {}\n", 42), 8));
    assert_eq!(log_of(printk), ["cpu2: hello 42"]);
    assert_eq!(printk.platform().console(), "[    0.000000] cpu2: hello 42\n");
}

#[test]
fn the_console_shows_time_and_cpu_of_each_line() {
    let printk = machine();
    pass(Duration::from_micros(4123));
    print!(printk, "one\ntwo");
    let expected = "[    0.004123] cpu0: one\n[    0.004123] cpu0: two\n";
    assert_eq!(printk.platform().console(), expected);
}

#[test]
fn messages_not_below_the_loglevel_stay_off_the_console() {
    let printk = machine();
    printk.set_console_loglevel(5);
    printk.vprintk(LogLevel::Warning, format_args!("shown"));
    printk.vprintk(LogLevel::Notice, format_args!("kept"));
    assert_eq!(log_of(printk), ["cpu0: shown", "cpu0: kept"]);
    assert!(printk.platform().console().ends_with(" cpu0: shown\n"));
}

#[test]
fn records_overwritten_before_the_console_write_are_counted() {
    let printk = machine();
    // One message of more lines than the log holds: the console sees the last of them.
    let message: String = (0..2000).map(|n| format!("line {n}\n")).collect();
    print!(printk, "{message}");
    let overwritten = printk.log().lock().overwritten();
    assert!(overwritten > 0);
    assert_eq!(printk.console_lock().dropped(), overwritten);
    let console = printk.platform().console();
    assert_eq!(console.lines().count() as u64, 2000 - overwritten + 1);
    assert!(console.ends_with("overwritten in the log before they got here **\n"));
}

#[test]
fn threads_that_print_at_once_lose_nothing_and_tear_no_line() {
    let printk = machine();
    thread::scope(|scope| {
        for cpu in 0..CPUS {
            scope.spawn(move || {
                on_cpu(cpu, || (0..50).for_each(|n| _ = print!(printk, "message {n}")));
            });
        }
    });
    let console = printk.platform().console();
    for cpu in 0..CPUS {
        let of_cpu: Vec<_> = log_of(printk)
            .into_iter()
            .filter(|line| line.starts_with(&format!("cpu{cpu}:")))
            .collect();
        let expected: Vec<_> = (0..50).map(|n| format!("cpu{cpu}: message {n}")).collect();
        assert_eq!(of_cpu, expected);
        let on_console = console.lines().filter(|l| l.contains(&format!("cpu{cpu}: message")));
        assert_eq!(on_console.count(), 50);
    }
}

#[test]
fn an_nmi_inside_printk_with_its_lock_held_prints_without_waiting() {
    struct NmiLandsHere(&'static Printk<ThreadMachine>);
    impl fmt::Display for NmiLandsHere {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            assert!(self.0.log().is_locked());
            nmi(self.0, 0, &["from NMI\n"]);
            f.write_str("interrupted")
        }
    }
    let printk = machine();
    printk.printk_nmi_backtrace_prepare().unwrap();
    print!(printk, "{}", NmiLandsHere(printk));
    assert_eq!(log_of(printk), ["cpu0: interrupted"]);
    printk.printk_nmi_backtrace_complete();
    assert_eq!(log_of(printk), ["cpu0: interrupted", "cpu0: from NMI"]);
}

#[test]
fn a_diverted_cpu_prints_into_its_buffer_only() {
    let printk = machine();
    on_cpu(1, || {
        printk.printk_nmi_backtrace_this_cpu_begin().unwrap();
        assert_eq!(print!(printk, "diverted {}\n", 1), 11);
    });
    on_cpu(2, || print!(printk, "not diverted"));
    assert_eq!(log_of(printk), ["cpu2: not diverted"]);
    on_cpu(1, || {
        printk.printk_nmi_backtrace_this_cpu_end().unwrap();
        print!(printk, "restored");
    });
    assert_eq!(log_of(printk), ["cpu2: not diverted", "cpu1: restored"]);
}

#[test]
fn complete_prints_each_cpus_lines_also_a_partial_one() {
    let printk = machine();
    printk.printk_nmi_backtrace_prepare().unwrap();
    nmi(printk, 3, &["whole\n", "\n", "par", "tial"]);
    nmi(printk, 1, &["first\nsecond\n"]);
    printk.printk_nmi_backtrace_complete();
    let expected = ["cpu1: first", "cpu1: second", "cpu3: whole", "cpu3: ", "cpu3: partial"];
    assert_eq!(log_of(printk), expected);

    // The buffers are wiped: the next time, only new lines are printed.
    printk.printk_nmi_backtrace_prepare().unwrap();
    nmi(printk, 1, &["third\n"]);
    printk.printk_nmi_backtrace_complete();
    assert_eq!(log_of(printk)[5..], ["cpu1: third"]);
}

#[test]
fn a_line_longer_than_a_record_continues_in_the_next() {
    let printk = machine();
    let long = "ä".repeat(LINE_MAX);
    printk.printk_nmi_backtrace_prepare().unwrap();
    nmi(printk, 1, &["x", &long, "\n"]);
    printk.printk_nmi_backtrace_complete();
    let log = log_of(printk);
    assert_eq!(log.len(), 3);
    let text: String = log.iter().map(|line| line.strip_prefix("cpu1: ").unwrap()).collect();
    assert_eq!(text, format!("x{long}"));
}

#[test]
fn messages_that_do_not_fit_are_counted_and_reported() {
    let printk = machine();
    printk.set_console_loglevel(0);
    printk.printk_nmi_backtrace_prepare().unwrap();
    let line = format!("{}\n", "x".repeat(99));
    // 4096 bytes hold 40 lines of 100, and 10 of 50 are lost; so is a short one after that.
    let mut messages = vec![&*line; 50];
    messages.push("y");
    assert_eq!(NMI_BUF_SIZE, 4096);
    nmi(printk, 2, &messages);
    printk.printk_nmi_backtrace_complete();
    let log = log_of(printk);
    assert_eq!(log.len(), 41);
    assert_eq!(log[39], format!("cpu2: {}", "x".repeat(99)));
    assert_eq!(log[40], "cpu2: ... 11 messages lost");
}

#[test]
fn a_second_client_gets_the_first_ones_number() {
    let printk = machine();
    on_cpu(2, || printk.printk_nmi_backtrace_prepare()).unwrap();
    let busy = on_cpu(1, || printk.printk_nmi_backtrace_prepare()).unwrap_err();
    assert_eq!(busy, Busy { holder: 3 });
    assert_eq!(busy.to_string(), "reserved by cpu2");
    assert_eq!(printk.nmi_print_flag().owner(), 3);
    on_cpu(2, || printk.printk_nmi_backtrace_complete());
    assert_eq!(printk.nmi_print_flag().owner(), 0);
    on_cpu(1, || printk.printk_nmi_backtrace_prepare()).unwrap();
}

#[test]
fn complete_without_prepare_keeps_another_cpus_reservation() {
    let printk = machine();
    on_cpu(2, || printk.printk_nmi_backtrace_prepare()).unwrap();
    on_cpu(1, || printk.printk_nmi_backtrace_complete());
    assert_eq!(printk.nmi_print_flag().owner(), 3);
    assert_eq!(log_of(printk), ["cpu1: BUG: printk_nmi_backtrace_complete without prepare"]);
}

#[test]
fn a_double_begin_restores_printk_and_then_reports_a_bug() {
    let printk = machine();
    printk.printk_nmi_backtrace_prepare().unwrap();
    on_cpu(1, || {
        printk.printk_nmi_backtrace_this_cpu_begin().unwrap();
        print!(printk, "before\n");
        assert_eq!(printk.printk_nmi_backtrace_this_cpu_begin(), Err(DoubleBegin));
        print!(printk, "after");
    });
    let bug = "cpu1: BUG: printk_nmi_backtrace_this_cpu_begin inside of itself";
    assert_eq!(log_of(printk), [bug, "cpu1: after"]);
    assert_eq!(printk.log().lock().records().next().unwrap().header.level, 0);
    // The text printed before is not lost.
    printk.printk_nmi_backtrace_complete();
    assert_eq!(log_of(printk), [bug, "cpu1: after", "cpu1: before"]);
}

#[test]
fn an_end_without_begin_reports_a_bug() {
    let printk = machine();
    assert_eq!(printk.printk_nmi_backtrace_this_cpu_end(), Err(EndWithoutBegin));
    let bug = "cpu0: BUG: printk_nmi_backtrace_this_cpu_end without begin";
    assert_eq!(log_of(printk), [bug]);
}

#[test]
fn complete_leaves_the_buffer_of_a_running_handler() {
    let printk = machine();
    printk.printk_nmi_backtrace_prepare().unwrap();
    on_cpu(1, || {
        printk.printk_nmi_backtrace_this_cpu_begin().unwrap();
        print!(printk, "slow\n");
    });
    printk.printk_nmi_backtrace_complete();
    let left = "cpu0: cpu1: still in its NMI handler; its buffer is left as it is";
    assert_eq!(log_of(printk), [left]);
    assert_eq!(printk.nmi_print_flag().owner(), 0);

    // The handler ends, and the next client prints its text before it sends NMIs.
    on_cpu(1, || printk.printk_nmi_backtrace_this_cpu_end()).unwrap();
    printk.printk_nmi_backtrace_prepare().unwrap();
    nmi(printk, 1, &["quick\n"]);
    printk.printk_nmi_backtrace_complete();
    let late = "cpu1: from an NMI handler that ran after its client had finished:";
    assert_eq!(log_of(printk), [left, late, "cpu1: slow", "cpu1: quick"]);
}

#[test]
fn a_handler_during_a_read_of_its_buffer_is_counted() {
    let printk = machine();
    printk.printk_nmi_backtrace_prepare().unwrap();
    nmi(printk, 1, &["in time\n"]);
    printk.platform().at_console_write(0, move || {
        // A second handler, while the first one's text is written.
        nmi(printk, 1, &["late\n", "later\n"]);
    });
    printk.printk_nmi_backtrace_complete();
    assert_eq!(log_of(printk), ["cpu1: in time"]);

    // Only the count is left, and the next reader prints it.
    printk.printk_nmi_backtrace_prepare().unwrap();
    nmi(printk, 1, &["in time again\n"]);
    printk.printk_nmi_backtrace_complete();
    let late = "cpu1: from an NMI handler that ran after its client had finished:";
    let expected = ["cpu1: in time", late, "cpu1: ... 2 messages lost", "cpu1: in time again"];
    assert_eq!(log_of(printk), expected);
}

#[test]
fn a_message_inside_a_diverted_message_is_counted_as_lost() {
    struct Prints(&'static Printk<ThreadMachine>);
    impl fmt::Display for Prints {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            assert_eq!(print!(self.0, "inner\n"), 0);
            f.write_str("outer\n")
        }
    }
    let printk = machine();
    printk.printk_nmi_backtrace_prepare().unwrap();
    printk.printk_nmi_backtrace_this_cpu_begin().unwrap();
    print!(printk, "{}", Prints(printk));
    printk.printk_nmi_backtrace_this_cpu_end().unwrap();
    printk.printk_nmi_backtrace_complete();
    assert_eq!(log_of(printk), ["cpu0: outer", "cpu0: ... 1 messages lost"]);
}

#[test]
fn a_panic_message_is_printed_with_both_locks_held() {
    let printk = machine();
    let (log, console) = (printk.log().lock(), printk.console_lock());
    printk.panic_print(LogLevel::Emergency, format_args!("panic: {}\nat {}", "help", 3));
    drop((log, console));
    let expected = "[    0.000000] cpu0: panic: help\n[    0.000000] cpu0: at 3\n";
    assert_eq!(printk.platform().console(), expected);
    assert!(log_of(printk).is_empty());
}

#[test]
fn a_panic_in_an_nmi_handler_is_logged_and_printed() {
    let printk = machine();
    printk.printk_nmi_backtrace_this_cpu_begin().unwrap();
    printk.panic_print(LogLevel::Emergency, format_args!("panic\n"));
    assert_eq!(print!(printk, "still diverted"), 14);
    assert_eq!(log_of(printk), ["cpu0: panic"]);
    assert!(printk.platform().console().ends_with(" cpu0: panic\n"));
}

#[test]
fn a_panics_long_line_continues_in_the_next() {
    let printk = machine();
    let long = "ä".repeat(LINE_MAX);
    printk.panic_print(LogLevel::Emergency, format_args!("{long}"));
    let console = printk.platform().console();
    assert_eq!(console.lines().count(), 2);
    let text: String = console.lines().map(|line| line.split_once("cpu0: ").unwrap().1).collect();
    assert_eq!(text, long);
}
