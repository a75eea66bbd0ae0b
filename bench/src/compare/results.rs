//! What was found: every cell, and how it stands to the reference of its medium.

use std::fmt;

use serde_json::{Value, json};

use super::{
    variants::Contender,
    workloads::{Point, Workload},
};
use crate::{
    machine::Machine,
    outcome::CLIENT_BUSY_MAX,
    rounds::{PERCENTILES, Rounds, Sample, Tally},
    statistics::Spread,
};

/// A workload, measured.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) cells: Vec<Measured>,
    /// The disk without a server, if it was looked at.
    pub(super) floor: Vec<Floor>,
}

/// A contender at a point.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) contender: Contender,
    pub(super) point: Point,
    pub(super) rounds: usize,
    pub(super) rate: Option<Spread>,
    /// Bytes of payload in a second.
    pub(super) bytes_rate: Option<Spread>,
    /// The latency at each of [`PERCENTILES`], in microseconds.
    pub(super) latency_us: [Option<Spread>; PERCENTILES.len()],
    /// CPU time of the server for a request, in microseconds.
    pub(super) server_us: Option<Spread>,
    pub(super) client_busy: Option<Spread>,
    pub(super) server_busy: Option<Spread>,
    pub(super) against: Option<Against>,
    tally: Tally,
}

/// How a reference stands to a contender: above 1, the reference does better. Ratios of windows of
/// the same round.
#[derive(Debug)]
pub(super) struct Against {
    pub(super) reference: String,
    pub(super) ratios: [(&'static str, Option<Spread>); 4],
    /// True if the client had time to spare in both: else requests/s say what the client can do.
    pub(super) rate_counts: bool,
}

/// Overwrites of the raw disk.
#[derive(Debug)]
pub(super) struct Floor {
    name: &'static str,
    p50_us: Option<Spread>,
    p99_us: Option<Spread>,
}

/// The names of the ratios, in JSON and where they are compared.
pub(super) const CPU: &str = "CPU per request";
pub(super) const RATE: &str = "requests/s";

impl Group {
    /// Returns what was found, of cells in the order contenders by points, then the floor.
    pub(super) fn of(workload: &Workload, floor: &[&'static str], rounds: &Rounds) -> Self {
        let Workload { name, about, points, contenders } = workload;
        let mut cells = Vec::new();
        for (row, point) in points.iter().enumerate() {
            for (column, contender) in contenders.iter().enumerate() {
                let at = |column| row * contenders.len() + column;
                let reference = contender.reference_among(contenders);
                let against = reference.map(|other| {
                    Against::of(contenders[other].to_string(), rounds, [at(column), at(other)])
                });
                cells.push(Measured::of(*contender, *point, at(column), rounds, against));
            }
        }
        let first = points.len() * contenders.len();
        let floor = floor.iter().enumerate().map(|(place, name)| Floor {
            name,
            p50_us: rounds.of(first + place, |sample| sample.p50_us),
            p99_us: rounds.of(first + place, |sample| sample.p99_us),
        });
        Self { name, about, cells, floor: floor.collect() }
    }

    /// Returns true if each cell was measured in half of the rounds at least.
    pub(super) fn is_whole(&self, rounds: usize) -> bool {
        self.cells.iter().all(|cell| 2 * cell.rounds >= rounds)
    }

    /// Returns how many windows were dropped, and how many failed.
    pub(super) fn lost_windows(&self) -> (u64, u64) {
        let add = |(waited, failed), cell: &Measured| {
            (waited + cell.tally.waited, failed + cell.tally.failed + cell.tally.given_up)
        };
        self.cells.iter().fold((0, 0), add)
    }
}

impl Measured {
    fn of(
        contender: Contender,
        point: Point,
        cell: usize,
        rounds: &Rounds,
        against: Option<Against>,
    ) -> Self {
        Self {
            contender,
            point,
            rounds: rounds.count(cell),
            rate: rounds.of(cell, |sample| sample.requests_rate),
            bytes_rate: rounds.of(cell, |sample| sample.bytes_rate),
            latency_us: std::array::from_fn(|place| {
                rounds.of(cell, |sample| sample.latency_us[place])
            }),
            server_us: rounds.of(cell, |sample| sample.server_us),
            client_busy: rounds.of(cell, |sample| sample.client_busy),
            server_busy: rounds.of(cell, |sample| sample.server_busy),
            against,
            tally: rounds.tally(cell),
        }
    }

    /// Returns the latency at a percentile.
    pub(super) fn latency_us(&self, percent: f64) -> Option<Spread> {
        let place = PERCENTILES.iter().position(|known| *known == percent)?;
        self.latency_us[place]
    }

    /// Returns true if requests/s are what the client can do.
    pub(super) fn is_client_bound(&self) -> bool {
        self.client_busy.is_some_and(|busy| busy.median > CLIENT_BUSY_MAX)
    }

    fn to_json(&self) -> Value {
        let Tally { repeated, waited, failed, given_up, errors } = &self.tally;
        let latency = PERCENTILES.iter().zip(&self.latency_us);
        let latency = latency.map(|(percent, us)| json!([percent, Spread::json(*us)]));
        json!({
            "server": self.contender.to_string(),
            "load": self.point.to_string(),
            "connections": self.point.connections,
            "depth": self.point.depth,
            "rounds": self.rounds,
            "requests_per_second": Spread::json(self.rate),
            "payload_bytes_per_second": Spread::json(self.bytes_rate),
            "latency_us_by_percentile": latency.collect::<Vec<_>>(),
            "server_us_per_request": Spread::json(self.server_us),
            "client_busy": Spread::json(self.client_busy),
            "server_busy": Spread::json(self.server_busy),
            "throughput_is_the_clients": self.is_client_bound(),
            "against": self.against.as_ref().map(Against::to_json),
            "windows": {
                "repeated": repeated,
                "dropped": waited,
                "failed": failed,
                "given_up": given_up,
            },
            "errors": errors.to_json(),
        })
    }
}

impl Against {
    fn of(reference: String, rounds: &Rounds, cells: [usize; 2]) -> Self {
        let ratio = |of: fn(&Sample) -> f64| rounds.across(cells, |[it, other]| of(it) / of(other));
        let rate = rounds.across(cells, |[it, other]| other.requests_rate / it.requests_rate);
        let has_time = |cell| {
            let busy = rounds.of(cell, |sample| sample.client_busy);
            busy.is_some_and(|busy| busy.median <= CLIENT_BUSY_MAX)
        };
        let ratios = [
            (CPU, ratio(|sample| sample.server_us)),
            (RATE, rate),
            ("p50", ratio(|sample| sample.p50_us)),
            ("p99", ratio(|sample| sample.p99_us)),
        ];
        Self { reference, ratios, rate_counts: cells.into_iter().all(has_time) }
    }

    /// Returns a ratio by its name.
    pub(super) fn ratio(&self, name: &str) -> Option<Spread> {
        self.ratios.iter().find(|(known, _)| *known == name)?.1
    }

    fn to_json(&self) -> Value {
        let ratios = self.ratios.iter().map(|(name, ratio)| ((*name).into(), Spread::json(*ratio)));
        json!({
            "reference": self.reference,
            "ratios": ratios.collect::<serde_json::Map<_, _>>(),
            "throughput_counts": self.rate_counts,
        })
    }
}

/// Returns all of it for machines.
pub(super) fn to_json(machine: &Machine, method: Value, groups: &[Group]) -> Value {
    let groups = groups.iter().map(|group| {
        let floor = group.floor.iter().map(|floor| {
            json!({
                "name": floor.name,
                "p50_us": Spread::json(floor.p50_us),
                "p99_us": Spread::json(floor.p99_us),
            })
        });
        json!({
            "workload": group.name,
            "about": group.about,
            "cells": group.cells.iter().map(Measured::to_json).collect::<Vec<_>>(),
            "floor": floor.collect::<Vec<_>>(),
        })
    });
    let groups: Vec<Value> = groups.collect();
    let mut json = machine.to_json();
    json["method"] = method;
    json["workloads"] = groups.into();
    json
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.name, self.about)?;
        let mut point = None;
        for cell in &self.cells {
            if point.replace(cell.point) != Some(cell.point) {
                write!(
                    f,
                    "\n  {:<28}{:>4}{:>12}{:>9}",
                    cell.point.to_string(),
                    "n",
                    "req/s",
                    "client"
                )?;
                write!(f, "{:>10}{:>10}{:>10}{:>10}", "p50 us", "p99 us", "p99.9 us", "CPU us")?;
                writeln!(f, "{:>27}{:>27}", "reference better: CPU", "requests/s")?;
            }
            cell.fmt(f)?;
        }
        for Floor { name, p50_us, p99_us } in &self.floor {
            let (p50, p99) = (number(*p50_us, 1), number(*p99_us, 1));
            writeln!(f, "  raw disk, {name}: p50 {p50} us, p99 {p99} us")?;
        }
        Ok(())
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.is_client_bound() { "*" } else { " " };
        write!(f, "  {:<28}{:>4}", self.contender.to_string(), self.rounds)?;
        write!(f, "{:>11}{mark}", number(self.rate, 0))?;
        let busy =
            self.client_busy.map_or_else(|| "-".into(), |b| format!("{:.0} %", b.median * 100.0));
        write!(f, "{busy:>9}")?;
        for percent in [50.0, 99.0, 99.9] {
            write!(f, "{:>10}", number(self.latency_us(percent), 1))?;
        }
        write!(f, "{:>10}", number(self.server_us, 2))?;
        if let Some(against) = &self.against {
            write!(f, "{:>27}", ratio(against.ratio(CPU)))?;
            let rate = if against.rate_counts { ratio(against.ratio(RATE)) } else { "*".into() };
            write!(f, "{rate:>27}")?;
        }
        writeln!(f)?;
        let Tally { waited, failed, given_up, errors, .. } = &self.tally;
        if *waited > 0 {
            writeln!(f, "    {waited} windows dropped because of waiting")?;
        }
        if failed + given_up > 0 {
            let lost = failed + given_up;
            writeln!(f, "    {lost} windows failed: {errors}")?;
        }
        Ok(())
    }
}

fn number(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(|| "-".into(), |spread| format!("{:.digits$}", spread.median))
}

fn ratio(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || "-".into(),
        |Spread { median, low, high, .. }| format!("{median:.2}x [{low:.2} - {high:.2}]"),
    )
}
