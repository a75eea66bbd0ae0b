//! The pictures of a comparison, one set for each medium.

use std::path::Path;

use super::{
    results::{Group, Measured},
    workloads::{Ask, size},
};
use crate::{
    baselines::Medium,
    cli::Failure,
    machine::Machine,
    plot::{Axis, Bars, Chart, Percentiles, Point, Scale, Series},
    rounds::PERCENTILES,
    statistics::Spread,
};

/// Writes the pictures that `groups` have the numbers for into `out`.
pub(super) fn draw(out: &Path, machine: &Machine, groups: &[Group]) -> Result<(), Failure> {
    let workload = |name| groups.iter().find(|group| group.name == name);
    for (medium, on) in [("memory", "in memory"), ("disk", "on an ordinary disk")] {
        let set = Set { medium, subtitle: machine.short() };
        let path = |what: &str| out.join(format!("{medium}-{what}"));
        if let Some(group) = workload("post") {
            let title = |what: &str| format!("{what}, 1 KB POST, {on}");
            set.throughput(group, title("Throughput")).write(&path("throughput"))?;
            set.p99(group, title("99th percentile")).write(&path("p99"))?;
            set.cpu(group, title("CPU of the server")).write(&path("cpu"))?;
            set.percentiles(group, title("Latency"), 100).write(&path("percentiles"))?;
        }
        if let Some(group) = workload("sizes") {
            let title = format!("Throughput by size, 32 connections, {on}");
            set.sizes(group, title).write(&path("sizes"))?;
        }
    }
    Ok(())
}

/// What all pictures of a medium share.
struct Set {
    medium: &'static str,
    subtitle: String,
}

impl Set {
    fn throughput(&self, group: &Group, title: String) -> Chart {
        let bound = self.cells(group).filter(|cell| cell.is_client_bound());
        let limit = bound.map(|cell| cell.point.connections).min();
        let label = limit.map_or_else(
            || "requests/s".to_owned(),
            |limit| format!("requests/s (from {limit} connections on the client may be the limit)"),
        );
        self.chart(group, title, &label, |cell| cell.rate)
    }

    fn p99(&self, group: &Group, title: String) -> Chart {
        self.chart(group, title, "99th percentile, us", |cell| cell.latency_us(99.0))
    }

    fn chart(
        &self,
        group: &Group,
        title: String,
        label: &str,
        number: impl Fn(&Measured) -> Option<Spread>,
    ) -> Chart {
        let at = |cell: &Measured| Some(cell.point.connections as f64);
        Chart {
            title,
            subtitle: self.subtitle.clone(),
            x: Axis { label: "connections".into(), scale: Scale::Log },
            y: Axis { label: label.into(), scale: Scale::Log },
            series: self.series(group, at, number),
        }
    }

    fn sizes(&self, group: &Group, title: String) -> Chart {
        let at = |cell: &Measured| match cell.point.ask {
            Ask::Body(bytes) => Some(bytes as f64),
            Ask::Post | Ask::Read | Ask::Short => None,
        };
        let rate = |cell: &Measured| cell.bytes_rate.map(|bytes| bytes.map(|bytes| bytes / 1e6));
        Chart {
            title,
            subtitle: self.subtitle.clone(),
            x: Axis {
                label: format!("body, {} to {}", size(64), size(1 << 20)),
                scale: Scale::Bytes,
            },
            y: Axis { label: "payload, MB/s".into(), scale: Scale::Log },
            series: self.series(group, at, rate),
        }
    }

    fn cpu(&self, group: &Group, title: String) -> Bars {
        let mut counts: Vec<usize> =
            group.cells.iter().map(|cell| cell.point.connections).collect();
        counts.sort_unstable();
        counts.dedup();
        let at = |cell: &Measured| {
            let place = counts.iter().position(|count| *count == cell.point.connections);
            place.map(|place| place as f64)
        };
        let series = self.series(group, at, |cell| cell.server_us);
        let names = counts.iter().map(usize::to_string).collect();
        Bars {
            title,
            subtitle: self.subtitle.clone(),
            x: Axis { label: "connections".into(), scale: Scale::Categories(names) },
            y: Axis { label: "us of CPU for a request".into(), scale: Scale::Linear },
            series,
        }
    }

    fn percentiles(&self, group: &Group, title: String, connections: usize) -> Percentiles {
        let cells = self.cells(group).filter(|cell| cell.point.connections == connections);
        let series = cells.map(|cell| {
            let points = PERCENTILES.iter().zip(cell.latency_us);
            let points = points.map(|(percent, us)| point(*percent, us)).collect();
            named(cell, points)
        });
        Percentiles {
            title: format!("{title}, {connections} connections"),
            subtitle: self.subtitle.clone(),
            y: Axis { label: "us, median of windows".into(), scale: Scale::Log },
            series: series.collect(),
        }
    }

    /// Returns one series for each contender.
    fn series(
        &self,
        group: &Group,
        at: impl Fn(&Measured) -> Option<f64>,
        number: impl Fn(&Measured) -> Option<Spread>,
    ) -> Vec<Series> {
        let mut found: Vec<Series> = Vec::new();
        for cell in self.cells(group) {
            let Some(x) = at(cell) else { continue };
            let point = point(x, number(cell));
            let name = cell.contender.to_string();
            match found.iter_mut().find(|series| series.name == name) {
                Some(series) => series.points.push(point),
                None => found.push(named(cell, vec![point])),
            }
        }
        found
    }

    /// Returns the cells of its medium; what is not durable at all is the ceiling of memory.
    fn cells<'a>(&self, group: &'a Group) -> impl Iterator<Item = &'a Measured> {
        let is_disk = self.medium == "disk";
        group
            .cells
            .iter()
            .filter(move |cell| (cell.contender.variant.medium == Medium::Disk) == is_disk)
    }
}

fn named(cell: &Measured, points: Vec<Point>) -> Series {
    let variant = cell.contender.variant;
    let emphasis = variant.name == variant.reference();
    Series { name: cell.contender.to_string(), points, emphasis }
}

fn point(x: f64, spread: Option<Spread>) -> Point {
    spread.map_or_else(
        || Point::new(x, f64::NAN),
        |Spread { median, low, high, .. }| Point::new(x, median).spread(low, high),
    )
}
