//! Live progress on a terminal: a bar with totals and the running VMs, and above it the lines that `plain`
//! writes.
//!
//! Owns the bar, and when it is redrawn; refuses to own the lines above it (`progress`). Called by the
//! command line, with each event.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::phrases::{self, status_verb};
use super::progress::Progress;
use super::{Reporter, TextOptions};
use crate::event::{EventKind, FarmEvent, Id, Status, VmFinished};

/// Maximum number of running VMs shown.
const MAX_SHOWN: usize = 8;
/// Interval at which the times of running VMs are redrawn.
const REDRAW_INTERVAL: Duration = Duration::from_millis(250);
/// Width assumed for a terminal that does not report it.
const DEFAULT_WIDTH: usize = 80;

/// Reporter that draws on standard error.
pub struct Terminal {
    bar: ProgressBar,
    progress: Progress,
    running: Arc<Running>,
    counts: BTreeMap<Status, u64>,
    flaky: u64,
    colors: bool,
}

/// Running tries with their starts, oldest first; also read by the bar's own thread.
#[derive(Default)]
struct Running(Mutex<Vec<(Id, Instant)>>);

impl Terminal {
    /// Draws on standard error. Without a terminal there are only lines and no bar. `root` is the results
    /// directory.
    pub fn new(root: PathBuf, options: TextOptions) -> Self {
        let colors = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
        let width = || {
            let size = rustix::termios::tcgetwinsize(io::stderr());
            size.ok()
                .map(|size| size.ws_col.into())
                .filter(|width| *width > 0)
                .unwrap_or(DEFAULT_WIDTH)
        };
        Self::on(ProgressDrawTarget::stderr(), Progress::new(root, options), colors, width)
    }

    fn on(
        target: ProgressDrawTarget,
        progress: Progress,
        colors: bool,
        width: fn() -> usize,
    ) -> Self {
        let running = Arc::new(Running::default());
        let shown = Arc::clone(&running);
        let bar = ProgressBar::with_draw_target(Some(0), target);
        // Without the template the bar merely looks different.
        if let Ok(style) =
            ProgressStyle::with_template(" {bar:20} {pos}/{len}  {wide_msg}\n{running}")
        {
            let show = move |_: &ProgressState, text: &mut dyn std::fmt::Write| {
                let _ = text.write_str(&shown.show(width()));
            };
            bar.set_style(style.progress_chars("━╸ ").with_key("running", show));
        }
        Self { bar, progress, running, counts: BTreeMap::new(), flaky: 0, colors }
    }

    fn finished(&mut self, end: &VmFinished, hunt: Option<String>) {
        self.running.lock().retain(|(id, _)| *id != end.id);
        if end.again || end.status == Status::Interrupted {
            return;
        }
        *self.counts.entry(end.status).or_insert(0) += 1;
        self.flaky += u64::from(end.flaky);
        let counts =
            self.counts.iter().map(|(status, count)| format!("{count} {}", status_verb(*status)));
        let flaky = (self.flaky > 0).then(|| format!("{} flaky", self.flaky));
        let counts = || counts.chain(flaky).collect::<Vec<_>>().join(", ");
        self.bar.set_message(hunt.unwrap_or_else(counts));
        self.bar.inc(1);
    }

    /// Prints lines above the bar.
    fn print(&self, text: &str) -> io::Result<()> {
        let plain = || anstream::adapter::strip_str(text).to_string();
        let text = if self.colors { text.to_owned() } else { plain() };
        if text.is_empty() {
            Ok(())
        } else if self.bar.is_hidden() {
            io::stderr().write_all(text.as_bytes())
        } else {
            self.bar.println(text);
            Ok(())
        }
    }
}

impl Reporter for Terminal {
    fn report(&mut self, event: &FarmEvent) -> anyhow::Result<()> {
        let text = self.progress.report(event);
        match &event.kind {
            EventKind::FarmStarted(started) => {
                if self.bar.is_finished() {
                    self.bar.reset();
                }
                self.bar.set_length(started.planned);
                self.bar.set_position(started.done);
                self.bar.enable_steady_tick(REDRAW_INTERVAL);
            }
            EventKind::VmStarted(started) => {
                self.running.lock().push((started.id.clone(), Instant::now()));
            }
            EventKind::VmFinished(end) => self.finished(end, self.progress.hunt(event)),
            EventKind::FarmInterrupted { .. } | EventKind::FarmFinished(_) => {}
        }
        self.print(&text)?;
        if matches!(event.kind, EventKind::FarmFinished(_)) {
            self.bar.finish_and_clear();
        }
        Ok(())
    }

    fn note_earlier(&mut self, event: &FarmEvent) {
        self.progress.note_earlier(event);
    }
}

impl Drop for Terminal {
    /// Removes the bar, since a run can fail before its end is reported.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, Vec<(Id, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists the oldest tries, the likeliest to be stuck, one line each and no wider than the terminal.
    fn show(&self, width: usize) -> String {
        let running = self.lock();
        let mut lines: Vec<String> = Vec::new();
        for (id, since) in running.iter().take(MAX_SHOWN) {
            let elapsed = format!("{} s", since.elapsed().as_secs());
            let line = format!(" {elapsed:>7}  {}", phrases::run_name(id));
            lines.push(phrases::one_line(&line, width.saturating_sub(1).max(1)));
        }
        if let more @ 1.. = running.len().saturating_sub(MAX_SHOWN) {
            let mut line = String::new();
            let _ = write!(line, "          and {more} more");
            lines.push(line);
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use indicatif::TermLike;

    use super::super::tests as fixture;
    use super::*;

    /// Terminal of unlimited height that wraps long lines and ignores colors.
    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Grid>>);

    #[derive(Default)]
    struct Grid {
        rows: Vec<Vec<char>>,
        row: usize,
        column: usize,
    }

    impl Grid {
        fn put(&mut self, character: char) {
            match character {
                '\r' => self.column = 0,
                '\n' => (self.row, self.column) = (self.row + 1, 0),
                _ => {
                    if self.column == DEFAULT_WIDTH {
                        (self.row, self.column) = (self.row + 1, 0);
                    }
                    let rows = self.rows.len().max(self.row + 1);
                    self.rows.resize(rows, vec![' '; DEFAULT_WIDTH]);
                    self.rows[self.row][self.column] = character;
                    self.column += 1;
                }
            }
        }

        fn text(&self) -> String {
            let rows = self.rows.iter().map(|row| row.iter().collect::<String>());
            let rows: Vec<String> = rows.map(|row| row.trim_end().to_owned()).collect();
            format!("{}\n", rows.join("\n").trim_end_matches('\n'))
        }
    }

    impl fmt::Debug for Screen {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Screen")
        }
    }

    impl Screen {
        fn change(&self, change: impl FnOnce(&mut Grid)) -> io::Result<()> {
            change(&mut self.0.lock().unwrap());
            Ok(())
        }

        fn text(&self) -> String {
            self.0.lock().unwrap().text()
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            DEFAULT_WIDTH as u16
        }

        fn move_cursor_up(&self, n: usize) -> io::Result<()> {
            self.change(|grid| grid.row = grid.row.saturating_sub(n))
        }

        fn move_cursor_down(&self, n: usize) -> io::Result<()> {
            self.change(|grid| grid.row += n)
        }

        fn move_cursor_right(&self, n: usize) -> io::Result<()> {
            self.change(|grid| grid.column += n)
        }

        fn move_cursor_left(&self, n: usize) -> io::Result<()> {
            self.change(|grid| grid.column = grid.column.saturating_sub(n))
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(&format!("{text}\n"))
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            // Stripping colors drops carriage returns too.
            let parts = text.split_inclusive('\r').map(|part| {
                let plain = anstream::adapter::strip_str(part).to_string();
                let end = if part.ends_with('\r') { "\r" } else { "" };
                format!("{}{end}", plain.trim_end_matches('\r'))
            });
            let text: String = parts.collect();
            self.change(|grid| text.chars().for_each(|character| grid.put(character)))
        }

        fn clear_line(&self) -> io::Result<()> {
            self.change(|grid| {
                grid.column = 0;
                let row = grid.row;
                if let Some(row) = grid.rows.get_mut(row) {
                    row.fill(' ');
                }
            })
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Wraps lines as a terminal does.
    fn wrapped(text: &str) -> String {
        let mut screen = Grid::default();
        text.chars().for_each(|character| screen.put(character));
        screen.text()
    }

    fn terminal(colors: bool) -> (Terminal, Screen) {
        let screen = Screen::default();
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let progress = Progress::new("results".into(), TextOptions::default());
        (Terminal::on(target, progress, colors, || DEFAULT_WIDTH), screen)
    }

    #[test]
    fn text_left_on_the_screen_equals_the_plain_lines() {
        for colors in [false, true] {
            let (mut terminal, screen) = terminal(colors);
            fixture::report_all(&mut terminal, &fixture::events());
            drop(terminal);
            assert_eq!(screen.text(), wrapped(&fixture::lines(&fixture::events())));
        }
    }

    #[test]
    fn bar_shows_running_vms_and_disappears_with_the_reporter() {
        let (mut terminal, screen) = terminal(false);
        let mut farm = fixture::ScriptedFarm::new(12);
        let long = "x".repeat(200);
        for name in ["a", "b", "c\x1b[2J", &long, "e", "f", "g", "h", "i", "j"] {
            farm.start(name);
        }
        farm.end("a", Status::Pass);
        fixture::report_all(&mut terminal, &farm.events);
        terminal.bar.tick();
        let text = screen.text();
        let bar = text.lines().position(|line| line.contains("1/12  1 passed")).unwrap();
        let below: Vec<&str> = text.lines().skip(bar + 1).collect();
        assert_eq!(below.len(), MAX_SHOWN + 1, "{text}");
        assert!(below[0].ends_with(" s  b"), "{text}");
        assert!(below[1].ends_with(" s  c\\u{1b}[2J"), "{text}");
        assert_eq!(below[2].chars().count(), DEFAULT_WIDTH - 1);
        assert_eq!(below[8], "          and 1 more");
        drop(terminal);
        assert_eq!(screen.text(), " PASS  [  0.41s] a\n");
    }
}
