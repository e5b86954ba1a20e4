//! Backtraces of a live session: the guest stopped, its moment taken, and resumed.
//!
//! Owns which hangs and which core a backtrace gets; refuses to own the capture's contents (`capture`) and
//! when a backtrace is due (the parent module, which calls this).

use std::time::{Duration, SystemTime};

use nmiscope_report::{Backtrace, Trigger};
use nmiscope_symbolizer::SourceRoots;

use super::Session;
use crate::capture::{CaptureRequest, Sampling, StoppedGuest, Timeouts};
use crate::diagnosis::{self, Resolver};
use crate::hang::Detection;
use crate::images::source_roots;
use crate::kernel::{KernelSymbols, SYMBOLS_INCOMPLETE, WithVariables};
use crate::session::observe;
use crate::session::record::CorePriority;
use crate::session::watch::Watch;
use crate::targets::Target;

impl Session<'_> {
    pub(super) fn stop(&mut self) -> StoppedGuest {
        let mut bounds = Timeouts::for_vcpus(self.options.vcpus);
        bounds.handlers = self.options.nmi_timeout.unwrap_or(bounds.handlers);
        let known = self.watch.as_ref().and_then(Watch::places);
        StoppedGuest::stop(&mut self.vm, self.guest.examine().0, known, bounds)
    }

    /// Stops the guest and takes its backtrace. The guest stays stopped.
    pub(super) fn stop_and_capture(&mut self, trigger: Trigger) {
        let asked = self.started.elapsed();
        let stopped = self.stop();
        let found = self.find_hangs_now(&stopped, asked, &trigger);
        self.capture_stopped(stopped, asked, trigger, found);
    }

    /// Finds the hangs of a stopped guest at a backtrace on request, including those whose bounds have not
    /// passed. `None` for another trigger: a guest that has ended has no hangs.
    fn find_hangs_now(
        &mut self,
        stopped: &StoppedGuest,
        at: Duration,
        trigger: &Trigger,
    ) -> Option<Detection> {
        match trigger {
            Trigger::Signal { .. } | Trigger::Timer | Trigger::TimeLimit => {}
            _ => return None,
        }
        match &mut self.watch {
            Some(watch) => watch.find_hangs(&self.vm, stopped, at),
            None => Some(observe::find_hangs_without_clocks(&self.vm, stopped, at)),
        }
    }

    /// Takes the backtrace of a stopped guest, and reports it with the hangs that were `found`. `at` is
    /// the time of the trigger since the start.
    pub(super) fn capture_stopped(
        &mut self,
        stopped: StoppedGuest,
        at: Duration,
        trigger: Trigger,
        found: Option<Detection>,
    ) {
        let Self { vm, guest, watch, record, options, started, captured_at, .. } = self;
        let is_verdict = trigger == Trigger::Hang;
        let place = record.place_for(is_verdict, options.policy);
        if place.is_some() {
            *captured_at = Some(SystemTime::now());
        }
        let (kernel, files) = guest.examine();
        let image = files.parse().ok();
        let symbols = kernel.symbols(image.as_ref().map(|image| image as &dyn KernelSymbols));
        let wanted_variables = image.as_ref().filter(|_| options.variables);
        let with_variables = wanted_variables.map(WithVariables::new);
        let unwound_by = match &with_variables {
            Some(Ok(with_variables)) => Some(with_variables as &dyn KernelSymbols),
            _ => symbols,
        };
        let priority = CorePriority::from_trigger(&trigger);
        let watched = watch.as_mut().filter(|_| place.is_some());
        let history = watched.and_then(|watch| watch.past_minute(vm, &stopped, at));
        let mut still = watch.as_mut().map(|watch| {
            |target: &mut dyn Target| watch.cpus_to_sample(target, kernel, *started, is_verdict)
        });
        let request = CaptureRequest {
            // A vCPU that the host does not run would not answer its NMI.
            nmis: place.is_some() && trigger != Trigger::Starved,
            trigger,
            at,
            found,
            history,
            symbols: unwound_by,
            core: options
                .core
                .as_ref()
                .filter(|_| place.is_some() && record.has_room_for(priority)),
            sampling: still
                .as_mut()
                .map(|recheck| Sampling { time_limit: sampling_time(is_verdict), recheck }),
        };
        let (capture, core) = stopped.capture(vm, request);
        let resolver = Resolver::new(symbols, SourceRoots::new(source_roots()));
        let resolver = resolver.with_vocabulary(kernel.vocabulary());
        let diagnosis = diagnosis::diagnose(&capture, place, &resolver);
        if let Some(watch) = watch {
            watch.nmis_sent(at, nmis_of(&diagnosis.backtrace));
        }
        let is_budget_spent = resolver.symbols().is_some_and(KernelSymbols::is_budget_spent);
        if let Some(core) = core {
            record.keep(priority, core, capture);
        }
        record.add(diagnosis, is_verdict, place.is_some());
        // All backtraces are of the same image, and have the same reasons.
        if is_budget_spent {
            record.warn_once(SYMBOLS_INCOMPLETE.into());
        }
        if let Some(Err(reason)) = &with_variables {
            record.warn_once(reason.to_string());
        }
    }

    /// Resumes a stopped guest, and its hang detection.
    pub(super) fn resume(&mut self) {
        self.vm.resume();
        for watch in self.watch.iter_mut().chain(&mut self.onlooker) {
            watch.resumed(self.started.elapsed());
        }
    }
}

/// Returns the numbers of the vCPUs that an NMI was sent to.
fn nmis_of(backtrace: &Backtrace) -> Vec<u32> {
    backtrace.cpus.iter().filter(|cpu| cpu.nmi.sent).map(|cpu| cpu.cpu).collect()
}

/// Returns the longest time for sampling, which a host with few cores for many vCPUs may need. A backtrace
/// on request gets less: its user is waiting.
pub(super) fn sampling_time(is_verdict: bool) -> Duration {
    Duration::from_millis(if is_verdict { 250 } else { 100 })
}
