//! Rounds: every variant once, in a random order, each in a short window of its own.
//!
//! The machine is shared and its speed drifts, so only windows of the same round are compared. A
//! window in which client or server had to wait for a CPU is measured again, and left out if that
//! does not help: the filter looks at the wait alone, never at the result.

use std::{
    array,
    io::{self, IsTerminal},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use crate::{
    cli::Failure,
    client::{self, Plan},
    outcome::{Errors, Outcome},
    process::Server,
    raw::{RawFile, Sync},
    stages::Stage,
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
    /// Cells of the same block are visited one behind the other: the machine's speed drifts within
    /// a round, too, and what is compared should be near.
    pub(crate) block: usize,
}

/// How it is measured.
#[derive(Debug)]
pub(crate) enum Visit<'a> {
    Load {
        server: &'a Server,
        plan: Box<Plan>,
    },
    /// As a load, of a server that says its stages: of these requests and no others.
    Stages {
        server: &'a Server,
        plan: Box<Plan>,
        /// What is sent afterwards, unmeasured.
        after: Box<Plan>,
    },
    /// Overwrites of a block, on a core.
    Overwrite {
        file: &'a RawFile,
        by: Sync,
        core: usize,
        time: Duration,
    },
    /// Sequential writes, started on a core.
    Sequential {
        file: &'a RawFile,
        core: usize,
    },
    /// There is nothing to visit, and why.
    Nothing(String),
}

/// What a window has found; NaN is what it cannot find.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<Option<f64>>", into = "Vec<f64>")]
pub(crate) struct Sample {
    pub(crate) requests_rate: f64,
    pub(crate) bytes_rate: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// The latency at each of [`PERCENTILES`].
    pub(crate) latency_us: [f64; PERCENTILES.len()],
    /// CPU time of the server for a request.
    pub(crate) server_us: f64,
    pub(crate) server_busy: f64,
    pub(crate) client_busy: f64,
    /// What part of the window client or server, whichever is more, waited for a CPU.
    pub(crate) wait: f64,
    pub(crate) mean_us: f64,
    /// What the server has charged a request to, if it says that: by [`Stage`].
    pub(crate) stages_us: [f64; Stage::ALL.len()],
}

/// All windows.
#[derive(Debug, Default)]
pub(crate) struct Rounds(Vec<Round>);

/// The windows of one round, by cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Round {
    /// `None` if the window was left out.
    samples: Vec<Option<Sample>>,
    tallies: Vec<Tally>,
}

/// What became of the windows of a cell.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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
    /// Returns rounds that were measured before.
    pub(crate) fn of_before(rounds: Vec<Round>) -> Self {
        Self(rounds)
    }

    /// Returns in how many rounds a cell was measured.
    pub(crate) fn count(&self, cell: usize) -> usize {
        self.samples(cell).count()
    }

    /// Returns what became of a cell's windows.
    pub(crate) fn tally(&self, cell: usize) -> Tally {
        let mut sum = Tally::default();
        self.0.iter().for_each(|round| sum.add(&round.tallies[cell]));
        sum
    }

    /// Returns the spread of one number of one cell.
    pub(crate) fn of(&self, cell: usize, number: impl Fn(&Sample) -> f64) -> Option<Spread> {
        Spread::of(self.samples(cell).map(number).filter(|number| !number.is_nan()))
    }

    /// Returns the spread of a number that is made of the cells `wanted` of one round. Rounds in
    /// which one of them was left out do not count.
    pub(crate) fn across<const N: usize>(
        &self,
        wanted: [usize; N],
        number: impl Fn([&Sample; N]) -> f64,
    ) -> Option<Spread> {
        let of_round = |round: &Round| {
            let found: Option<Vec<&Sample>> =
                wanted.iter().map(|cell| round.samples[*cell].as_ref()).collect();
            Some(number(found?.try_into().expect("as many as were wanted")))
        };
        Spread::of(self.0.iter().filter_map(of_round))
    }

    fn samples(&self, cell: usize) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter_map(move |round| round.samples[cell].as_ref())
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
        self.go_on(name, cells, Rounds::default(), &mut |_| Ok(()))
    }

    /// Measures the rounds that `rounds` lacks, and gives each to `keep` as soon as it is done.
    pub(crate) fn go_on(
        &mut self,
        name: &str,
        cells: &[Cell<'_>],
        mut rounds: Rounds,
        keep: &mut dyn FnMut(&Round) -> Result<(), Failure>,
    ) -> Result<Rounds, Failure> {
        let missing = self.rounds.saturating_sub(rounds.0.len());
        let warm_rounds = if missing > 0 { WARM_ROUNDS } else { 0 };
        let bar = bar(name, (warm_rounds + missing) * cells.len());
        let mut failures = vec![0; cells.len()];
        // What has failed is told, whenever it was.
        let mut early = vec![Tally::default(); cells.len()];
        for warm in (0..warm_rounds + missing).map(|round| round < warm_rounds) {
            let mut samples = vec![None; cells.len()];
            let mut tallies = mem::replace(&mut early, vec![Tally::default(); cells.len()]);
            for cell in self.order(cells) {
                let mut tally = Tally::default();
                if failures[cell] >= FAILURES_MAX {
                    tally.given_up += 1;
                } else {
                    samples[cell] = self.window(&cells[cell], &mut tally, !warm)?;
                    failures[cell] = if tally.failed > 0 { failures[cell] + 1 } else { 0 };
                }
                if !warm || tally.failed > 0 {
                    tallies[cell].add(&tally);
                }
                bar.inc(1);
            }
            if warm {
                early = tallies;
            } else {
                let round = Round { samples, tallies };
                keep(&round)?;
                rounds.0.push(round);
            }
        }
        bar.finish_and_clear();
        Ok(rounds)
    }

    /// Returns the blocks in a random order, and in each its cells.
    fn order(&mut self, cells: &[Cell<'_>]) -> Vec<usize> {
        let blocks = cells.iter().map(|cell| cell.block + 1).max().unwrap_or(0);
        let blocks = self.random.order(blocks);
        let mut order = self.random.order(cells.len());
        // Stable: what is in a block stays in its random order.
        order.sort_by_key(|cell| blocks[cells[*cell].block]);
        order
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
                return Err("stopped by a signal".into());
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
            let outcome = checked(outcome?);
            paused?;
            Ok((Sample::of_load(&outcome), outcome.errors))
        }
        Visit::Stages { server, plan, after } => {
            server.resume()?;
            let visited = stages(server, plan, after);
            let paused = server.pause();
            let visited = visited?;
            paused?;
            Ok(visited)
        }
        Visit::Overwrite { file, by, core, time } => {
            let (found, usage) = on_core(*core, || file.overwrite(*by, *time))?;
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
        Visit::Nothing(why) => Err(why.clone().into()),
        Visit::Sequential { file, core } => {
            // Its threads are short-lived; their waiting is not seen.
            let (bytes_rate, _) = on_core(*core, || file.sequential())?;
            Ok((Sample { bytes_rate, ..Sample::NOTHING }, Errors::default()))
        }
    }
}

/// Returns `outcome`, in which no reply at all is an error.
fn checked(mut outcome: Outcome) -> Outcome {
    if outcome.requests == 0 && outcome.errors.total() == 0 {
        outcome.errors.late += 1;
        outcome.errors.note(&"no reply within a window");
    }
    outcome
}

fn stages(server: &Server, plan: &Plan, after: &Plan) -> Result<(Sample, Errors), Failure> {
    let account = server.settled_account()?;
    let outcome = checked(client::run(plan)?);
    let charged = server.account()?;
    let mut errors = outcome.errors.clone();
    errors.add(&client::run(after)?.errors);
    let mut sample = Sample::of_load(&outcome);
    if let (Some(account), Some(charged)) = (account, charged) {
        sample.stages_us = charged.us_since(&account);
    }
    Ok((sample, errors))
}

impl Sample {
    pub(crate) const NOTHING: Self = Self {
        requests_rate: f64::NAN,
        bytes_rate: f64::NAN,
        p50_us: f64::NAN,
        p99_us: f64::NAN,
        latency_us: [f64::NAN; PERCENTILES.len()],
        server_us: f64::NAN,
        server_busy: f64::NAN,
        client_busy: f64::NAN,
        wait: 0.0,
        mean_us: f64::NAN,
        stages_us: [f64::NAN; Stage::ALL.len()],
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
            mean_us: outcome.mean_us(),
            ..Self::NOTHING
        }
    }
}

/// As a row of numbers, without the names that every window would repeat; JSON has no NaN but null.
impl From<Sample> for Vec<f64> {
    fn from(sample: Sample) -> Self {
        let Sample { requests_rate, bytes_rate, p50_us, p99_us, .. } = sample;
        let Sample { server_us, server_busy, client_busy, wait, latency_us, .. } = sample;
        let Sample { mean_us, stages_us, .. } = sample;
        let numbers = [requests_rate, bytes_rate, p50_us, p99_us, server_us];
        let mut row = numbers.to_vec();
        row.extend([server_busy, client_busy, wait]);
        row.extend(latency_us);
        row.push(mean_us);
        row.extend(stages_us);
        row
    }
}

impl From<Vec<Option<f64>>> for Sample {
    fn from(row: Vec<Option<f64>>) -> Self {
        let at = |place: usize| row.get(place).copied().flatten().unwrap_or(f64::NAN);
        Self {
            requests_rate: at(0),
            bytes_rate: at(1),
            p50_us: at(2),
            p99_us: at(3),
            server_us: at(4),
            server_busy: at(5),
            client_busy: at(6),
            wait: at(7),
            latency_us: array::from_fn(|place| at(8 + place)),
            mean_us: at(8 + PERCENTILES.len()),
            stages_us: array::from_fn(|place| at(9 + PERCENTILES.len() + place)),
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
pub(crate) const WARM_ROUNDS: usize = 2;
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
        let samples =
            [[sample(100.0), sample(50.0)], [sample(10.0), None], [sample(30.0), sample(10.0)]];
        let round = |samples: [_; 2]| Round { samples: samples.to_vec(), tallies: Vec::new() };
        let rounds = Rounds(samples.into_iter().map(round).collect());
        let ratio = rounds.across([0, 1], |[a, b]| a.requests_rate / b.requests_rate).unwrap();
        assert_eq!((ratio.median, ratio.count), (2.5, 2));
        assert_eq!(rounds.of(0, |sample| sample.requests_rate).unwrap().median, 30.0);
        assert_eq!(rounds.of(1, |sample| sample.requests_rate).unwrap().count, 2);
    }

    /// What is compared and far apart in time is compared at two speeds of the machine.
    #[test]
    fn cells_of_a_block_are_visited_one_behind_the_other() {
        let cell = |block| Cell {
            name: String::new(),
            visit: Visit::Nothing(String::new()),
            wait_max: 0.0,
            block,
        };
        let cells = [0, 1, 0, 2, 1, 0].map(cell);
        let mut measurer = Measurer::new(7, 1).unwrap();
        let orders: Vec<Vec<usize>> = (0..200).map(|_| measurer.order(&cells)).collect();
        for order in &orders {
            let mut blocks: Vec<usize> = order.iter().map(|cell| cells[*cell].block).collect();
            blocks.dedup();
            assert_eq!(blocks.len(), 3, "{order:?}");
        }
        // And each comes first at some time.
        for cell in 0..cells.len() {
            assert!(orders.iter().any(|order| order[0] == cell), "{cell}");
        }
    }

    /// What was measured before an interruption would come back as something else.
    #[test]
    fn a_round_comes_back_from_its_journal() {
        let mut latency_us = [f64::NAN; PERCENTILES.len()];
        latency_us[0] = 12.5;
        let sample = Sample { wait: 0.25, latency_us, ..Sample::NOTHING };
        let errors = Errors { lost: 3, first: Some("gone".into()), ..Errors::default() };
        let tally = Tally { repeated: 1, errors, ..Tally::default() };
        let round = Round { samples: vec![Some(sample), None], tallies: vec![tally; 2] };
        let text = serde_json::to_string(&round).unwrap();
        let back: Round = serde_json::from_str(&text).unwrap();
        assert_eq!(format!("{back:?}"), format!("{round:?}"));
    }

    /// One server that has died would end the measuring of all others.
    #[test]
    fn a_cell_that_fails_is_given_up_and_the_others_go_on() {
        let own = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(own.parent().unwrap()).unwrap();
        let file = RawFile::create(&dir.path().join("raw"), 4 << 20).unwrap();
        let cell = |core| Cell {
            name: format!("core {core}"),
            visit: Visit::Overwrite {
                file: &file,
                by: Sync::Direct,
                core,
                time: Duration::from_millis(1),
            },
            wait_max: f64::INFINITY,
            block: 0,
        };
        // There is no such core, so nothing can be done on it.
        let rounds = Measurer::new(7, 4).unwrap().measure("raw", &[cell(0), cell(9999)]).unwrap();
        assert_eq!((rounds.count(0), rounds.count(1)), (4, 0));
        let tally = rounds.tally(1);
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
        let overwrite = Visit::Overwrite { file: &file, by: Sync::Fdatasync, core: 0, time };
        let sequential = Visit::Sequential { file: &file, core: 0 };
        let cells = [overwrite, sequential].map(|visit| Cell {
            name: "raw".into(),
            visit,
            wait_max: f64::INFINITY,
            block: 0,
        });
        let rounds = Measurer::new(7, 2).unwrap().measure("raw", &cells).unwrap();
        assert!(rounds.of(0, |sample| sample.p50_us).unwrap().median > 0.0);
        assert!(rounds.of(1, |sample| sample.bytes_rate).unwrap().median > 0.0);
        assert_eq!(rounds.of(0, |sample| sample.p50_us).unwrap().count, 2);
    }
}
