//! What is told of the peers: a table for each promise, and all of it as JSON.

use std::fmt;

use serde_json::{Value, json};

use crate::{
    machine::Machine,
    rounds::{Rounds, Sample, Tally},
    statistics::Spread,
};

/// Servers that promise the same, in numbers.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) title: String,
    /// By name: what each has said of its settings.
    pub(super) servers: Vec<(String, String)>,
    pub(super) rows: Vec<Row>,
    /// Who was not measured, and why.
    pub(super) missing: Vec<String>,
}

/// A server under one load.
#[derive(Debug)]
pub(super) struct Row {
    load: String,
    name: String,
    rounds: usize,
    /// By name, with the number of digits behind the point.
    columns: [(&'static str, usize, Option<Spread>); 4],
    /// Impasto's number by this server's, within a round.
    ratios: [(&'static str, Option<Spread>); 4],
    tally: Tally,
}

impl Table {
    /// Returns true if all were measured, without an error.
    pub(super) fn is_whole(&self) -> bool {
        self.missing.is_empty() && !self.rows.iter().any(Row::has_failed)
    }
}

impl Row {
    /// Takes the numbers of a cell, beside those of the cell of Impasto under the same load.
    pub(super) fn of(
        load: String,
        name: String,
        rounds: &Rounds,
        cell: usize,
        impasto: Option<usize>,
    ) -> Self {
        let across = |number: fn(&Sample) -> f64| {
            rounds.across([impasto?, cell], |[ours, theirs]| number(ours) / number(theirs))
        };
        let beside = |number| if impasto == Some(cell) { None } else { across(number) };
        Self {
            load,
            name,
            rounds: rounds.count(cell),
            columns: [
                ("requests/s", 0, rounds.of(cell, |s| s.requests_rate)),
                ("p50 us", 1, rounds.of(cell, |s| s.p50_us)),
                ("p99 us", 1, rounds.of(cell, |s| s.p99_us)),
                ("CPU us/req", 2, rounds.of(cell, |s| s.server_us)),
            ],
            ratios: [
                ("requests/s", beside(|s| s.requests_rate)),
                ("p50", beside(|s| s.p50_us)),
                ("p99", beside(|s| s.p99_us)),
                ("CPU/request", beside(|s| s.server_us)),
            ],
            tally: rounds.tally(cell),
        }
    }

    fn has_failed(&self) -> bool {
        self.tally.failed + self.tally.given_up > 0
    }

    fn to_json(&self) -> Value {
        let columns = self.columns.iter().map(|(name, _, spread)| (*name, *spread));
        let Tally { repeated, waited, failed, given_up, errors } = &self.tally;
        json!({
            "load": self.load,
            "server": self.name,
            "rounds": self.rounds,
            "numbers": spreads(columns),
            "impasto_by_this": spreads(self.ratios.iter().copied()),
            "windows": {
                "repeated": repeated, "dropped": waited, "failed": failed, "given_up": given_up,
            },
            "errors": errors.to_json(),
        })
    }
}

fn spreads(named: impl Iterator<Item = (&'static str, Option<Spread>)>) -> Value {
    named.map(|(name, spread)| (name.to_owned(), spread_json(spread))).collect()
}

fn spread_json(spread: Option<Spread>) -> Value {
    let Some(Spread { median, low, high, count }) = spread else { return Value::Null };
    json!({ "median": median, "quartiles": [low, high], "rounds": count })
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for (name, setting) in &self.servers {
            writeln!(f, "  {name:<20} {setting}")?;
        }
        let mut load = None;
        for row in &self.rows {
            if load.replace(&row.load) != Some(&row.load) {
                write!(f, "\n  {:<20}{:>4}", row.load, "n")?;
                row.columns.iter().try_for_each(|(name, ..)| write!(f, "{name:>12}"))?;
                writeln!(f, "   Impasto/this: {:<21}p50    CPU  dropped failed", row.ratios[0].0)?;
            }
            writeln!(f, "{}", row.to_string().trim_end())?;
        }
        for missing in &self.missing {
            writeln!(f, "\n  {missing}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {:<20}{:>4}", self.name, self.rounds)?;
        for (_, digits, spread) in self.columns {
            match spread {
                Some(spread) => write!(f, "{:>12.digits$}", spread.median)?,
                None => write!(f, "{:>12}", "-")?,
            }
        }
        let [rate, p50, _, cpu] = self.ratios.map(|(_, spread)| spread);
        let rate = rate.map_or_else(String::new, |Spread { median, low, high, .. }| {
            format!("{median:.2} [{low:.2}-{high:.2}]")
        });
        let short = |spread: Option<Spread>| {
            spread.map_or_else(String::new, |spread| format!("{:.2}", spread.median))
        };
        let Tally { waited, failed, given_up, errors, .. } = &self.tally;
        write!(f, "   {rate:>32}{:>7}{:>7}", short(p50), short(cpu))?;
        write!(f, "{waited:>9}{:>7}", failed + given_up)?;
        if errors.total() > 0 {
            write!(f, "\n  {:<20}    errors: {errors}", "")?;
        }
        Ok(())
    }
}

/// Returns all of it for machines.
pub(super) fn to_json(machine: &Machine, tables: &[Table]) -> String {
    let mut json = machine.to_json();
    let tables = tables.iter().map(|table| {
        let server = |(name, setting): &(String, String)| json!({ "name": name, "set": setting });
        json!({
            "title": table.title,
            "servers": table.servers.iter().map(server).collect::<Vec<_>>(),
            "rows": table.rows.iter().map(Row::to_json).collect::<Vec<_>>(),
            "missing": table.missing,
        })
    });
    json["tables"] = tables.collect();
    format!("{json:#}\n")
}
