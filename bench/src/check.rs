//! `impasto-bench check`: this load generator against others that people trust.
//!
//! A generator of one's own is believed when it says what the others say. Each of those that are
//! installed and ours load the same server in short windows, one after the other in random order,
//! from the same core; ratios are taken within a round.

mod servers;
mod tools;

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use crate::{
    cli::{self, Failure, tell},
    client::{self, Dialect, Keyed, Limit, Order, Plan, Trim, Work},
    load::trim,
    machine::Machine,
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
    /// Connections: `1` or `1,50`; with many, a client on this machine is full before the server
    #[arg(long, value_delimiter = ',', default_value = "1,50", value_parser = cli::positive)]
    connections: Vec<usize>,
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
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second signal does not wait for the window.
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    tell(&Machine::look(args.seed).to_string());
    let mut all_good = true;
    for tool in Tool::ALL {
        if let Some(missing) = tool.missing() {
            tell(&format!("{}: skipped: {missing}", tool.name()));
            continue;
        }
        for connections in &args.connections {
            let compared = compare(args, tool, *connections, &mut random, &stop);
            // Relaxed: nothing is read because of it. What a tool said then is half the truth.
            if stop.load(Ordering::Relaxed) {
                return Err("stopped by a signal".into());
            }
            match compared {
                Ok(ratios) => ratios.tell(tool.name(), *connections),
                Err(failure) => {
                    all_good = false;
                    tell(&format!("{}: {failure}", tool.name()));
                }
            }
        }
    }
    Ok(if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What both have measured, by round.
#[derive(Debug, Default)]
struct Ratios {
    ours: Vec<Figures>,
    theirs: Vec<Figures>,
    /// How busy our client was.
    busy: Vec<f64>,
}

impl Ratios {
    fn tell(&self, name: &str, connections: usize) {
        let ratio = |number: fn(&Figures) -> f64| {
            let rounds = self.ours.iter().zip(&self.theirs);
            match Spread::of(rounds.map(|(ours, theirs)| number(ours) / number(theirs))) {
                Some(Spread { median, low, high, .. }) => {
                    format!("{median:.3} [{low:.3} - {high:.3}]")
                }
                None => "-".into(),
            }
        };
        let (rate, p50, p99) = (ratio(|f| f.rate), ratio(|f| f.p50_us), ratio(|f| f.p99_us));
        let s = if connections == 1 { "" } else { "s" };
        tell(&format!("ours to {name}, {connections} connection{s}: requests/s {rate}"));
        tell(&format!("  p50 {p50}, p99 {p99}"));
        let median = |numbers: &mut dyn Iterator<Item = f64>| {
            Spread::of(numbers).map_or(f64::NAN, |spread| spread.median)
        };
        for (whose, figures) in [("ours", &self.ours), (name, &self.theirs)] {
            let of = |number: fn(&Figures) -> f64| median(&mut figures.iter().map(number));
            let (rate, p50, p99) = (of(|f| f.rate), of(|f| f.p50_us), of(|f| f.p99_us));
            // Little's law: what is below 1 was spent outside of what is told as latency.
            let in_flight = of(|f| f.rate * f.mean_us / 1e6) / connections as f64;
            tell(&format!(
                "  {whose}: {rate:.0} requests/s, p50 {p50:.0} us, p99 {p99:.0} us, \
                 {in_flight:.2} requests on the way on each connection"
            ));
        }
        let busy = 100.0 * median(&mut self.busy.iter().copied());
        tell(&format!("  our client was {busy:.0} % busy"));
    }
}

fn compare(
    args: &Args,
    tool: Tool,
    connections: usize,
    random: &mut Random,
    stop: &AtomicBool,
) -> Result<Ratios, Failure> {
    let server = Loaded::start(tool, args.server_core)?;
    let plan = Plan { connections, ..plan(args, tool, &server) };
    let mut ratios = Ratios::default();
    let mut requests = 1000;
    for round in 0..=args.rounds {
        if stop.load(Ordering::Relaxed) {
            break;
        }
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
                theirs = Some(tool.run(args, connections, server.address(), requests)?);
                empty(&plan)?;
            }
        }
        // The first round is to fill caches, and to know about how fast it is.
        if let (Some(ours), Some(theirs)) = (ours, theirs)
            && round > 0
        {
            ratios.busy.push(ours.client_busy());
            ratios.ours.push(Figures {
                rate: ours.rate(),
                mean_us: ours.latency_ns.mean() / 1e3,
                p50_us: ours.quantile_us(0.5),
                p99_us: ours.quantile_us(0.99),
            });
            ratios.theirs.push(theirs);
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
