//! `impasto-bench check`: this load generator against others that people trust.
//!
//! A generator of one's own is believed when it says what the others say. Each of those that are
//! installed and ours load the same server in short windows, one after the other in random order,
//! from the same core; ratios are taken within a round.

mod servers;
mod tools;

use std::{process::ExitCode, time::Duration};

use crate::{
    cli::{self, Failure, tell},
    client::{self, Dialect, Keyed, Limit, Order, Plan, Trim, Work},
    load::trim,
    outcome::Outcome,
    protocol::{Request, Values},
    statistics::{Random, Spread},
};
use servers::Loaded;
use tools::{Figures, Tool};

/// Options of `impasto-bench check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rounds that count
    #[arg(long, default_value = "10", value_parser = cli::positive)]
    rounds: usize,
    /// Connections
    #[arg(long, default_value = "50", value_parser = cli::positive)]
    connections: usize,
    /// Length of a body or value
    #[arg(long, default_value = "1024", value_parser = cli::positive)]
    size: usize,
    /// Length of a window in whole seconds: wrk knows no others
    #[arg(long, default_value = "1", value_parser = cli::positive)]
    window: usize,
    /// Core of the server
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core of the clients
    #[arg(long, default_value_t = 1)]
    client_core: usize,
    /// Order of the windows
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut random = Random::new(args.seed);
    let mut all_good = true;
    for tool in Tool::ALL {
        if let Some(missing) = tool.missing() {
            tell(&format!("{}: skipped: {missing}", tool.name()));
            continue;
        }
        match compare(args, tool, &mut random) {
            Ok(ratios) => ratios.tell(tool.name()),
            Err(failure) => {
                all_good = false;
                tell(&format!("{}: {failure}", tool.name()));
            }
        }
    }
    Ok(if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ours to theirs, by round.
#[derive(Debug, Default)]
struct Ratios {
    rate: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    busy: Vec<f64>,
    theirs: Vec<Figures>,
}

impl Ratios {
    fn add(&mut self, ours: &Outcome, theirs: Figures) {
        self.rate.push(ours.rate() / theirs.rate);
        self.p50.push(ours.quantile_us(0.5) / theirs.p50_us);
        self.p99.push(ours.quantile_us(0.99) / theirs.p99_us);
        self.busy.push(ours.client_busy());
        self.theirs.push(theirs);
    }

    fn tell(&self, name: &str) {
        let spread = |numbers: &[f64]| match Spread::of(numbers.iter().copied()) {
            Some(Spread { median, low, high, .. }) => {
                format!("{median:.3} [{low:.3} - {high:.3}]")
            }
            None => "-".into(),
        };
        let median = |number: fn(&Figures) -> f64| {
            Spread::of(self.theirs.iter().map(number)).map_or(f64::NAN, |spread| spread.median)
        };
        let (rate, p50, p99) = (spread(&self.rate), spread(&self.p50), spread(&self.p99));
        tell(&format!("ours to {name}: requests/s {rate}, p50 {p50}, p99 {p99}"));
        let (rate, p50, p99) = (median(|f| f.rate), median(|f| f.p50_us), median(|f| f.p99_us));
        let busy = Spread::of(self.busy.iter().copied()).map_or(f64::NAN, |spread| spread.median);
        tell(&format!(
            "  {name} itself: {rate:.0} requests/s, p50 {p50:.0} us, p99 {p99:.0} us; our client \
             was {:.0} % busy",
            100.0 * busy
        ));
    }
}

fn compare(args: &Args, tool: Tool, random: &mut Random) -> Result<Ratios, Failure> {
    let server = Loaded::start(tool, args.server_core)?;
    let plan = plan(args, tool, &server);
    let mut ratios = Ratios::default();
    let mut requests = 1000;
    for round in 0..=args.rounds {
        let (mut ours, mut theirs) = (None, None);
        for place in random.order(2) {
            if place == 0 {
                let outcome = client::run(&plan)?;
                if outcome.errors.total() > 0 {
                    return Err(format!("our own errors: {}", outcome.errors).into());
                }
                requests = outcome.requests.max(1000);
                ours = Some(outcome);
            } else {
                theirs = Some(tool.run(args, server.address(), requests)?);
                empty(&plan)?;
            }
        }
        // The first round is to fill caches, and to know about how fast it is.
        if let (Some(ours), Some(theirs)) = (ours, theirs)
            && round > 0
        {
            ratios.add(&ours, theirs);
        }
    }
    Ok(ratios)
}

/// Returns our load: the same as the tool's.
fn plan(args: &Args, tool: Tool, server: &Loaded) -> Plan {
    let address = server.address();
    let (work, trim) = if tool == Tool::Wrk {
        let request = Request::new("POST", address, LOG, &vec![b'x'; args.size]);
        let after_each = u64::MAX;
        (Work::Same(request.expect_status(201)), Some(trim(address, LOG, after_each)))
    } else {
        let keyed = Keyed {
            dialect: Dialect::Resp { auth: None },
            values: Values::new(args.size),
            keys: KEYS,
            reads: 0.0,
            order: Order::Uniform,
            seed: args.seed,
        };
        (Work::Keyed(keyed), None)
    };
    Plan {
        connections: args.connections,
        limit: Limit::Time(Duration::from_secs(args.window as u64)),
        trim,
        cores: vec![args.client_core],
        ..Plan::new(address, work)
    }
}

/// Trims what the other tool has appended.
fn empty(plan: &Plan) -> Result<(), Failure> {
    let Some(Trim { request, .. }) = &plan.trim else { return Ok(()) };
    let limit = Limit::Requests(1);
    client::run(&Plan { limit, ..Plan::new(plan.target, Work::Same(request.clone())) })?;
    Ok(())
}

const LOG: &str = "/v1/logs/check";
const KEYS: u64 = 10_000;
