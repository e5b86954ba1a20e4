//! Tests of the console's order, bounds and sinks.

use super::*;

#[test]
fn the_tail_keeps_64_lines_and_cuts_long_ones() {
    let console = GuestConsole::open(&Sink::None).unwrap();
    let mut writer = console.writer();
    for line in 0..100 {
        write!(writer, "line {line}\r\n").unwrap();
    }
    writer.write_all(&[b'x'; 10_000]).unwrap();
    let tail = console.tail();
    assert_eq!(tail.len(), TAIL_LINES + 1);
    assert_eq!(tail[0], "line 36");
    assert_eq!(tail[TAIL_LINES].len(), TAIL_LINE_BYTES);
}

#[test]
fn the_line_that_begins_a_panic_is_kept_however_much_follows() {
    let console = GuestConsole::open(&Sink::None).unwrap();
    let mut writer = console.writer();
    writeln!(writer, "Kernel panic on cpu1: the first").unwrap();
    for round in 0..1000 {
        writeln!(writer, "Kernel panic on cpu1: of round {round}\n a frame").unwrap();
    }
    for _ in 0..1000 {
        writeln!(writer, " dig+0x13").unwrap();
    }
    let lines = console.panic_lines();
    assert_eq!(lines.len(), 2 * PANIC_LINES + TAIL_LINES);
    assert_eq!(lines[0], "Kernel panic on cpu1: the first");
    assert_eq!(lines[2 * PANIC_LINES - 1], "Kernel panic on cpu1: of round 999");
    assert!(lines[2 * PANIC_LINES..].iter().all(|line| line == " dig+0x13"));
}

#[test]
fn a_file_sink_gets_every_byte_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("console");
    let console = GuestConsole::open(&Sink::File(path.clone())).unwrap();
    console.writer().write_all(b"\x1b[1mraw\r\nend").unwrap();
    console.finish(None);
    assert_eq!(std::fs::read(path).unwrap(), b"\x1b[1mraw\r\nend");
}

/// Console whose sink is standard output, which no other stream is.
fn console_of(shared: &Arc<Shared>) -> GuestConsole {
    let shares = Shares { stdout: true, stderr: false };
    GuestConsole { shared: shared.clone(), file: None, shares }
}

/// Console on a stream that keeps what it gets.
fn console_on_a_stream() -> (GuestConsole, Arc<Mutex<Vec<u8>>>) {
    struct Kept(Arc<Mutex<Vec<u8>>>);
    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let kept = Arc::<Mutex<Vec<u8>>>::default();
    let shared = Arc::new(Shared::default());
    let (console, stream) = (console_of(&shared), kept.clone());
    thread::spawn(move || shared.pass_on(Output::text(Kept(stream))));
    (console, kept)
}

#[test]
fn text_in_a_pause_has_lines_of_its_own_between_the_guests() {
    let (console, stream) = console_on_a_stream();
    let mut guest = console.writer();
    let mut expected = Vec::new();
    for round in 0..5 {
        write!(guest, "whole\nbefore {round}").unwrap();
        let pause = console.order().pause_for(TextStream::Stdout);
        write!(guest, "after").unwrap();
        stream.lock().unwrap().extend_from_slice(b"text\n");
        drop(pause);
        write!(expected, "whole\nbefore {round}\ntext\nafter").unwrap();
    }
    console.finish(None);
    writeln!(expected).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&stream.lock().unwrap()),
        String::from_utf8_lossy(&expected)
    );
    assert_eq!(console.dropped(), 0);
}

/// A guest that runs ends its line, and the text waits for it.
#[test]
fn text_does_not_split_the_line_of_a_running_guest() {
    let (console, stream) = console_on_a_stream();
    let mut guest = console.writer();
    let order = console.order();
    let printer = thread::spawn(move || {
        for _ in 0..50 {
            let pause = order.pause_for(TextStream::Stdout);
            stream.lock().unwrap().extend_from_slice(b"text\n");
            drop(pause);
        }
        stream
    });
    while !printer.is_finished() {
        for byte in b"a line of the guest\n" {
            guest.write_all(&[*byte]).unwrap();
        }
    }
    let stream = printer.join().unwrap();
    console.finish(None);
    let stream = String::from_utf8(stream.lock().unwrap().clone()).unwrap();
    assert_eq!(stream.lines().filter(|line| *line == "text").count(), 50);
    let split = stream.lines().find(|line| !["text", "a line of the guest"].contains(line));
    assert_eq!(split, None);
}

#[test]
fn output_after_the_end_is_dropped() {
    let (console, stream) = console_on_a_stream();
    console.writer().write_all(b"end").unwrap();
    console.finish(None);
    console.writer().write_all(b"late").unwrap();
    drop(console);
    assert_eq!(*stream.lock().unwrap(), b"end\n");
}

#[test]
fn a_sink_that_fails_is_reported() {
    let console = GuestConsole::open(&Sink::File("/dev/full".into())).unwrap();
    console.writer().write_all(b"lost").unwrap();
    console.finish(None);
    let error = console.take_failure().expect("a device without room");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_stopped_reader_costs_bytes_and_does_not_stop_the_guest() {
    let (_reader, writer) = io::pipe().unwrap();
    let shared = Arc::new(Shared::default());
    let console = console_of(&shared);
    thread::spawn(move || shared.pass_on(Output::File(Box::new(writer))));
    let started = Instant::now();
    let mut guest = console.writer();
    for _ in 0..4 * QUEUE_BYTES / 1024 {
        guest.write_all(&[b'x'; 1024]).unwrap();
    }
    assert!(console.dropped() > 0);
    console.finish(None);
    assert!(started.elapsed() < Duration::from_secs(60), "every wait has a bound");
}

/// Console on a pipe, the pipe's ends, and a console's output that is more than the pipe holds.
fn console_on_a_pipe() -> (GuestConsole, io::PipeReader, io::PipeWriter, Vec<u8>) {
    let (reader, writer) = io::pipe().unwrap();
    let shared = Arc::new(Shared::default());
    let (console, sink) = (console_of(&shared), writer.try_clone().unwrap());
    thread::spawn(move || shared.pass_on(Output::text(sink)));
    let output: String = (0..10_000).map(|line| format!("line {line} of the guest\n")).collect();
    assert!(output.len() > 2 * 65_536);
    (console, reader, writer, output.into_bytes())
}

#[test]
fn text_for_the_consoles_own_stream_waits_for_a_late_reader() {
    let (console, mut reader, mut text, output) = console_on_a_pipe();
    let session = thread::spawn(move || {
        let mut guest = console.writer();
        guest.write_all(&output).unwrap();
        guest.write_all(b"unfinished").unwrap();
        let pause = console.order().pause_for(TextStream::Stdout);
        text.write_all(b"hang: the text\n").unwrap();
        drop(pause);
        guest.write_all(b"the end").unwrap();
        console.finish(Some(TextStream::Stdout));
        text.write_all(b"the outcome\n").unwrap();
        (output, console.dropped())
    });
    thread::sleep(3 * PAUSE);
    let mut all = Vec::new();
    io::Read::read_to_end(&mut reader, &mut all).unwrap();
    let (mut expected, dropped) = session.join().unwrap();
    expected.extend_from_slice(b"unfinished\nhang: the text\nthe end\nthe outcome\n");
    assert!(all == expected, "{}", String::from_utf8_lossy(&all[all.len() - 400..]));
    assert_eq!(dropped, 0);
}

/// A reader may want the other stream first, and a run without text has nothing to wait for.
#[test]
fn text_for_another_stream_does_not_wait_for_the_consoles_reader() {
    let (console, _reader, _text, output) = console_on_a_pipe();
    console.writer().write_all(&output).unwrap();
    drop(console.order().pause_for(TextStream::Stderr));
    console.finish(None);
    assert!(console.dropped() > 0);
}

#[test]
fn text_does_not_wait_for_a_console_in_its_own_file() {
    let folder = tempfile::tempdir().unwrap();
    let console = GuestConsole::open(&Sink::File(folder.path().join("console"))).unwrap();
    assert!(console.order().pause_for(TextStream::Stdout).is_none());
    assert!(console.order().pause_for(TextStream::Stderr).is_none());
}
