//! Rounds: every variant once, in a random order, each in a short window of its own.
//!
//! The machine is shared and its speed drifts, so only windows of the same round are compared. A
//! window in which client or server had to wait for a CPU is measured again, and left out if that
//! does not help: the filter looks at the wait alone, never at the result.

use std::{
    io::{self, IsTerminal},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use crate::{
    cli::Failure,
    client::{self, Plan},
    outcome::{Errors, Outcome},
    process::Server,
    raw::RawFile,
    statistics::{Random, Spread},
    usage::Usage,
};

/// Something to be measured once in each round.
#[derive(Debug)]
pub(crate) struct Cell<'a> {
    pub(crate) name: String,
    pub(crate) visit: Visit<'a>,
    /// The most of a window that client or server may have waited for a CPU.
    pub(crate) wait_max: f64,
}

/// How it is measured.
#[derive(Debug)]
pub(crate) enum Visit<'a> {
    Load {
        server: &'a Server,
        plan: Box<Plan>,
    },
    /// Overwrites of a block, on a core.
    Overwrite {
        file: &'a RawFile,
        core: usize,
        time: Duration,
    },
    /// Sequential writes, started on a core.
    Sequential {
        file: &'a RawFile,
        core: usize,
    },
}

/// What a window has found; NaN is what it cannot find.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) requests_rate: f64,
    pub(crate) bytes_rate: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// The latency at each of [`PERCENTILES`].
    #[expect(dead_code, reason = "plots want it")]
    pub(crate) latency_us: [f64; PERCENTILES.len()],
    /// CPU time of the server for a request.
    pub(crate) server_us: f64,
    pub(crate) server_busy: f64,
    pub(crate) client_busy: f64,
    /// What part of the window client or server, whichever is more, waited for a CPU.
    pub(crate) wait: f64,
}

/// All windows.
#[derive(Debug)]
pub(crate) struct Rounds {
    /// By round and cell; `None` if the window was left out.
    samples: Vec<Vec<Option<Sample>>>,
    pub(crate) tallies: Vec<Tally>,
}

/// What became of the windows of a cell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Windows that were measured again, because of waiting.
    pub(crate) repeated: u64,
    /// Windows that were left out, because of waiting.
    pub(crate) waited: u64,
    /// Windows that were left out, because of errors.
    pub(crate) failed: u64,
    /// Windows that were not tried any more, because those before had failed.
    pub(crate) given_up: u64,
    pub(crate) errors: Errors,
}

impl Rounds {
    /// Returns in how many rounds a cell was measured.
    pub(crate) fn count(&self, cell: usize) -> usize {
        self.samples.iter().filter(|round| round[cell].is_some()).count()
    }

    /// Returns the spread of one number of one cell.
    pub(crate) fn of(&self, cell: usize, number: impl Fn(&Sample) -> f64) -> Option<Spread> {
        let numbers = self.samples.iter().filter_map(|round| round[cell].as_ref().map(&number));
        Spread::of(numbers.filter(|number| !number.is_nan()))
    }

    /// Returns the spread of a number that is made of the cells `wanted` of one round. Rounds in
    /// which one of them was left out do not count.
    pub(crate) fn across<const N: usize>(
        &self,
        wanted: [usize; N],
        number: impl Fn([&Sample; N]) -> f64,
    ) -> Option<Spread> {
        let of_round = |round: &Vec<Option<Sample>>| {
            let found: Option<Vec<&Sample>> =
                wanted.iter().map(|cell| round[*cell].as_ref()).collect();
            Some(number(found?.try_into().expect("as many as were wanted")))
        };
        Spread::of(self.samples.iter().filter_map(of_round))
    }
}

/// Measures rounds until they are done or a signal comes.
#[derive(Debug)]
pub(crate) struct Measurer {
    random: Random,
    rounds: usize,
    stop: Arc<AtomicBool>,
}

impl Measurer {
    pub(crate) fn new(seed: u64, rounds: usize) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The second signal does not wait; servers end with this process then.
            flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
            flag::register(signal, Arc::clone(&stop))?;
        }
        Ok(Self { random: Random::new(seed), rounds, stop })
    }

    /// Measures every cell in every round.
    pub(crate) fn measure(&mut self, name: &str, cells: &[Cell<'_>]) -> Result<Rounds, Failure> {
        let bar = bar(name, (WARM_ROUNDS + self.rounds) * cells.len());
        let mut rounds =
            Rounds { samples: Vec::new(), tallies: vec![Tally::default(); cells.len()] };
        let mut failures = vec![0; cells.len()];
        for round in 0..WARM_ROUNDS + self.rounds {
            let mut samples = vec![None; cells.len()];
            for cell in self.random.order(cells.len()) {
                let mut tally = Tally::default();
                let is_warm = round >= WARM_ROUNDS;
                if failures[cell] >= FAILURES_MAX {
                    tally.given_up += 1;
                } else {
                    samples[cell] = self.window(&cells[cell], &mut tally, is_warm)?;
                    failures[cell] = if tally.failed > 0 { failures[cell] + 1 } else { 0 };
                }
                // What has failed is told, whenever it was.
                if is_warm || tally.failed > 0 {
                    rounds.tallies[cell].add(&tally);
                }
                bar.inc(1);
            }
            if round >= WARM_ROUNDS {
                rounds.samples.push(samples);
            }
        }
        bar.finish_and_clear();
        Ok(rounds)
    }

    /// Measures a cell, again if it had to wait.
    fn window(
        &self,
        cell: &Cell<'_>,
        tally: &mut Tally,
        repeats: bool,
    ) -> Result<Option<Sample>, Failure> {
        for attempt in 0.. {
            // Relaxed: nothing is read because of it.
            if self.stop.load(Ordering::Relaxed) {
                return Err("stopped by a signal: nothing is told of half the rounds".into());
            }
            // A server that has died is an error of its own windows; the others go on.
            let (sample, errors) = visit(&cell.visit).unwrap_or_else(|failure| {
                let mut errors = Errors { refused: 1, ..Errors::default() };
                errors.note(&failure);
                (Sample::NOTHING, errors)
            });
            if errors.total() > 0 {
                tally.failed += 1;
                tally.errors.add(&errors);
                return Ok(None);
            }
            if sample.wait <= cell.wait_max {
                return Ok(Some(sample));
            }
            if attempt == ATTEMPTS_MAX || !repeats {
                break;
            }
            tally.repeated += 1;
        }
        tally.waited += 1;
        Ok(None)
    }
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.repeated += other.repeated;
        self.waited += other.waited;
        self.failed += other.failed;
        self.given_up += other.given_up;
        self.errors.add(&other.errors);
    }
}

fn visit(visit: &Visit<'_>) -> Result<(Sample, Errors), Failure> {
    match visit {
        Visit::Load { server, plan } => {
            server.resume()?;
            let outcome = client::run(plan);
            let paused = server.pause();
            let mut outcome = outcome?;
            paused?;
            if outcome.requests == 0 && outcome.errors.total() == 0 {
                outcome.errors.late += 1;
                outcome.errors.note(&"no reply within a window");
            }
            Ok((Sample::of_load(&outcome), outcome.errors))
        }
        Visit::Overwrite { file, core, time } => {
            let (found, usage) = on_core(*core, || file.overwrite(*time))?;
            let at = |percent: usize| {
                let index = found.sorted_ns.len().saturating_sub(1) * percent / 100;
                found.sorted_ns.get(index).map_or(f64::NAN, |ns| *ns as f64 / 1000.0)
            };
            let seconds = time.as_secs_f64();
            let sample = Sample {
                requests_rate: found.sorted_ns.len() as f64 / seconds,
                p50_us: at(50),
                p99_us: at(99),
                wait: usage.wait.as_secs_f64() / seconds,
                ..Sample::NOTHING
            };
            Ok((sample, Errors::default()))
        }
        Visit::Sequential { file, core } => {
            // Its threads are short-lived; their waiting is not seen.
            let (bytes_rate, _) = on_core(*core, || file.sequential())?;
            Ok((Sample { bytes_rate, ..Sample::NOTHING }, Errors::default()))
        }
    }
}

impl Sample {
    const NOTHING: Self = Self {
        requests_rate: f64::NAN,
        bytes_rate: f64::NAN,
        p50_us: f64::NAN,
        p99_us: f64::NAN,
        latency_us: [f64::NAN; PERCENTILES.len()],
        server_us: f64::NAN,
        server_busy: f64::NAN,
        client_busy: f64::NAN,
        wait: 0.0,
    };

    fn of_load(outcome: &Outcome) -> Self {
        let server = outcome.server.unwrap_or_default();
        Self {
            requests_rate: outcome.rate(),
            bytes_rate: outcome.bytes_rate(),
            p50_us: outcome.quantile_us(0.5),
            p99_us: outcome.quantile_us(0.99),
            latency_us: PERCENTILES.map(|percent| outcome.quantile_us(percent / 100.0)),
            server_us: outcome.server_us_per_request().unwrap_or(f64::NAN),
            server_busy: outcome.share(server.run),
            client_busy: outcome.share(outcome.client.run),
            wait: outcome.share(server.wait.max(outcome.client.wait)),
        }
    }
}

/// Runs `work` on a thread that is pinned to `core`, and returns what that thread used, too.
fn on_core<T: Send>(
    core: usize,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<(T, Usage)> {
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            client::pin(&[core])?;
            let before = Usage::of_thread()?;
            let done = work()?;
            Ok((done, Usage::of_thread()? - before))
        });
        thread.join().expect("the work returns")
    })
}

fn bar(name: &str, windows: usize) -> ProgressBar {
    let bar = ProgressBar::new(windows as u64).with_message(name.to_owned());
    if !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} windows, {eta}");
    bar.with_style(style.expect("the template is well-formed"))
}

/// Where latencies are told; the last one is the maximum.
pub(crate) const PERCENTILES: [f64; 9] = [50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99, 100.0];
/// A cell whose windows fail so often, one behind the other, is not visited any more.
const FAILURES_MAX: u64 = 3;
/// Rounds before those that count: a region's memory is touched for the first time, caches fill.
const WARM_ROUNDS: usize = 2;
/// How often a window is measured again.
const ATTEMPTS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rate: f64) -> Option<Sample> {
        Some(Sample { requests_rate: rate, ..Sample::NOTHING })
    }

    /// Medians that are divided instead of ratios compare rounds at different speeds.
    #[test]
    fn ratios_are_taken_within_a_round() {
        let samples = vec![
            vec![sample(100.0), sample(50.0)],
            vec![sample(10.0), None],
            vec![sample(30.0), sample(10.0)],
        ];
        let rounds = Rounds { samples, tallies: Vec::new() };
        let ratio = rounds.across([0, 1], |[a, b]| a.requests_rate / b.requests_rate).unwrap();
        assert_eq!((ratio.median, ratio.count), (2.5, 2));
        assert_eq!(rounds.of(0, |sample| sample.requests_rate).unwrap().median, 30.0);
        assert_eq!(rounds.of(1, |sample| sample.requests_rate).unwrap().count, 2);
    }

    /// One server that has died would end the measuring of all others.
    #[test]
    fn a_cell_that_fails_is_given_up_and_the_others_go_on() {
        let own = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(own.parent().unwrap()).unwrap();
        let file = RawFile::create(&dir.path().join("raw"), 4 << 20).unwrap();
        let cell = |core| Cell {
            name: format!("core {core}"),
            visit: Visit::Overwrite { file: &file, core, time: Duration::from_millis(1) },
            wait_max: f64::INFINITY,
        };
        // There is no such core, so nothing can be done on it.
        let rounds = Measurer::new(7, 4).unwrap().measure("raw", &[cell(0), cell(9999)]).unwrap();
        assert_eq!((rounds.count(0), rounds.count(1)), (4, 0));
        let tally = &rounds.tallies[1];
        assert_eq!((tally.failed, tally.given_up), (3, 3));
        assert!(tally.errors.first.is_some(), "{tally:?}");
        assert_eq!(rounds.across([0, 1], |_| 1.0), None);
    }

    #[test]
    fn raw_overwrites_are_a_cell_like_any_other() {
        let own = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(own.parent().unwrap()).unwrap();
        let file = RawFile::create(&dir.path().join("raw"), 4 << 20).unwrap();
        let time = Duration::from_millis(1);
        let overwrite = Visit::Overwrite { file: &file, core: 0, time };
        let sequential = Visit::Sequential { file: &file, core: 0 };
        let cells = [overwrite, sequential].map(|visit| Cell {
            name: "raw".into(),
            visit,
            wait_max: f64::INFINITY,
        });
        let rounds = Measurer::new(7, 2).unwrap().measure("raw", &cells).unwrap();
        assert!(rounds.of(0, |sample| sample.p50_us).unwrap().median > 0.0);
        assert!(rounds.of(1, |sample| sample.bytes_rate).unwrap().median > 0.0);
        assert_eq!(rounds.of(0, |sample| sample.p50_us).unwrap().count, 2);
    }
}
