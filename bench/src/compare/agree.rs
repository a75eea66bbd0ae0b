//! Whether two comparisons say the same: the ratios of both, side by side.

use serde_json::Value;

use super::results::{CPU, RATE};
use crate::cli::{Failure, tell};

/// By how much two ratios may differ that are still called the same.
const DIFFERENCE_MAX: f64 = 0.05;

/// A ratio of a run: which, and how much.
#[derive(Debug, PartialEq)]
struct Ratio {
    name: String,
    median: f64,
}

/// Tells how far the ratios of two runs are from each other. Returns true if each has a twin, no
/// further than 5 % from it.
pub(super) fn tell_agreement(before: &Value, now: &Value) -> Result<bool, Failure> {
    let (before, now) = (ratios(before), ratios(now));
    let pairs: Vec<(&Ratio, &Ratio)> = now
        .iter()
        .filter_map(|it| Some((before.iter().find(|other| other.name == it.name)?, it)))
        .collect();
    if pairs.is_empty() {
        return Err("the two runs have no ratio in common".into());
    }
    let mut worst = 0.0_f64;
    tell(&format!("\n  {:<62}{:>8}{:>8}{:>8}", "ratio", "before", "now", "apart"));
    for (before, now) in &pairs {
        let apart = now.median / before.median - 1.0;
        let mark = if apart.abs() > DIFFERENCE_MAX { "  over 5 %" } else { "" };
        let (name, before, now) = (&now.name, before.median, now.median);
        tell(&format!("  {name:<62}{before:>8.3}{now:>8.3}{:>6.1} %{mark}", 100.0 * apart));
        worst = worst.max(apart.abs());
    }
    let alone = before.len() + now.len() - 2 * pairs.len();
    let over = pairs.iter().filter(|(a, b)| (b.median / a.median - 1.0).abs() > DIFFERENCE_MAX);
    let (over, all) = (over.count(), pairs.len());
    tell(&format!("  {over} of {all} are over 5 % apart; the worst is {:.1} %", 100.0 * worst));
    if alone > 0 {
        tell(&format!("  {alone} ratios are in one of the runs only"));
    }
    Ok(over == 0 && alone == 0)
}

/// Returns the ratios of a run that mean something: of CPU, and of requests/s that the client had
/// time for.
fn ratios(run: &Value) -> Vec<Ratio> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for cell in list(&run["workloads"]).iter().flat_map(|group| list(&group["cells"])) {
        let against = &cell["against"];
        let rate_counts = against["throughput_counts"] == true;
        for kind in [CPU, RATE].into_iter().filter(|kind| *kind == CPU || rate_counts) {
            if let Some(median) = against["ratios"][kind]["median"].as_f64() {
                let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
                let name = format!("{}: {}, {kind}", text(&cell["load"]), text(&cell["server"]));
                found.push(Ratio { name, median });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(cpu: f64, rate: f64, counts: bool) -> Value {
        let ratios = json!({ CPU: { "median": cpu }, RATE: { "median": rate } });
        let against = json!({ "ratios": ratios, "throughput_counts": counts });
        let cells = json!([{ "load": "a", "server": "b", "against": against }]);
        json!({ "workloads": [{ "cells": cells }] })
    }

    /// Two runs that differ would both be quoted.
    #[test]
    fn runs_agree_within_five_percent_on_what_counts() {
        assert!(tell_agreement(&run(1.0, 1.0, true), &run(1.04, 0.96, true)).unwrap());
        assert!(!tell_agreement(&run(1.0, 1.0, true), &run(1.06, 1.0, true)).unwrap());
        assert!(!tell_agreement(&run(1.0, 1.0, true), &run(1.0, 0.94, true)).unwrap());
        assert!(tell_agreement(&run(1.0, 1.0, false), &run(1.0, 0.5, false)).unwrap());
        assert!(!tell_agreement(&run(1.0, 1.0, true), &run(1.0, 1.0, false)).unwrap());
        assert!(tell_agreement(&run(1.0, 1.0, true), &json!({})).is_err());
    }
}
