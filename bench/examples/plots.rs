//! Draws every kind of chart, with invented data: to look at what `plot` makes of it.
//!
//! ```sh
//! cargo run -p impasto-bench --example plots -- /tmp/plots
//! ```

use std::{
    error::Error,
    fs,
    io::{self, Write},
    path::PathBuf,
};

use impasto_bench::plot::{Axis, Bars, Chart, Layers, Percentiles, Point, Scale, Series, Stack};

const CONNECTIONS: [f64; 7] = [1.0, 8.0, 32.0, 50.0, 100.0, 400.0, 1000.0];
const NAMES: [&str; 12] = [
    "Impasto, shm",
    "Impasto, disk",
    "status quo: copy, flush, fence, write per request",
    "one fence and one write per batch",
    "epoll without persistence",
    "write + fdatasync per request",
    "group commit, prewritten file",
    "mmap + msync",
    "splice + fdatasync",
    "MSG_ZEROCOPY replies",
    "SQLite (WAL, synchronous=FULL)",
    "an embedded store that syncs",
];

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("where to? plots DIR")?);
    fs::create_dir_all(&dir)?;
    let written = [
        throughput(NAMES.len()).write(&dir.join("throughput-12"))?,
        throughput(4).write(&dir.join("throughput-4"))?,
        latency().write(&dir.join("p99"))?,
        sizes().write(&dir.join("sizes"))?,
        one_point().write(&dir.join("one-point"))?,
        percentiles().write(&dir.join("percentiles"))?,
        cpu(5, 3).write(&dir.join("cpu"))?,
        cpu(12, 6).write(&dir.join("cpu-12"))?,
        breakdown().write(&dir.join("breakdown"))?,
    ];
    let mut out = io::stdout().lock();
    for path in written.iter().flatten() {
        writeln!(out, "{}", path.display())?;
    }
    Ok(())
}

fn axis(label: &str, scale: Scale) -> Axis {
    Axis { label: label.into(), scale }
}

fn subtitle() -> String {
    "INVENTED DATA. A machine with 2 cores, 8,192 MiB, Linux 6.18.44; commit 0123456789ab-dirty; \
     impasto-bench compare --quick --plot docs/images (seed 1234567890)"
        .into()
}

/// A server whose throughput grows to `most`, with quartiles around it.
fn growing(index: usize, most: f64, alone: f64) -> Series {
    let points = CONNECTIONS.map(|connections| {
        let y = most * connections / (connections + most / alone);
        Point::new(connections, y).spread(y * 0.96, y * 1.03)
    });
    Series { name: NAMES[index].into(), points: points.into(), emphasis: index < 2 }
}

fn throughput(count: usize) -> Chart {
    let mut series: Vec<Series> = (0..count)
        .map(|index| growing(index, 190_000.0 / (1.0 + index as f64 * 0.35), 16_000.0))
        .collect();
    // One that was left out, and one that cannot take as many.
    series[1].points[3].y = f64::NAN;
    series[count - 1].points.truncate(5);
    Chart {
        title: "1 KiB appends per second against connections".into(),
        subtitle: subtitle(),
        x: axis("connections", Scale::Log),
        y: axis("requests per second", Scale::Linear),
        series,
    }
}

fn latency() -> Chart {
    let mut series: Vec<Series> = (0..8)
        .map(|index| {
            let points = CONNECTIONS.map(|connections| {
                let y = (60.0 + 6.0 * connections) * (1.0 + index as f64).powf(1.4);
                Point::new(connections, y).spread(y * 0.8, y * 1.4)
            });
            Series { name: NAMES[index].into(), points: points.into(), emphasis: index < 2 }
        })
        .collect();
    series[4].points[0].low = 0.0;
    series[4].points[2].y = 0.0;
    Chart {
        title: "99th percentile of the latency of 1 KiB appends, against connections".into(),
        subtitle: subtitle(),
        x: axis("connections", Scale::Log),
        y: axis("p99 in us", Scale::Log),
        series,
    }
}

fn sizes() -> Chart {
    let sizes = [64.0, 100.0, 1024.0, 4096.0, 16384.0, 65536.0, 1048576.0];
    let series = (0..5).map(|index| {
        let points = sizes.map(|bytes| {
            let y = 3000.0 / (1.0 + index as f64) * bytes / (bytes + 20_000.0);
            Point::new(bytes, y).spread(y * 0.9, y * 1.1)
        });
        Series { name: NAMES[index].into(), points: points.into(), emphasis: index == 0 }
    });
    Chart {
        title: "Bytes per second against the size of a value".into(),
        subtitle: subtitle(),
        x: axis("size of the value", Scale::Bytes),
        y: axis("MB/s", Scale::Log),
        series: series.collect(),
    }
}

fn one_point() -> Chart {
    let only = |name: &str, y| {
        let points = vec![Point::new(100.0, y).spread(y * 0.9, y * 1.1)];
        Series { name: name.into(), points, emphasis: false }
    };
    let mut chart = throughput(2);
    let nothing = f64::NAN;
    chart.series = vec![only("one", 10_000.0), only("two", 10_050.0), only("none", nothing)];
    chart
}

fn percentiles() -> Percentiles {
    let series = (0..6).map(|index| {
        let mut points: Vec<Point> = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9]
            .into_iter()
            .map(|percentile: f64| {
                let nines = -(1.0 - percentile / 100.0).log10();
                Point::new(percentile, (40.0 + 25.0 * nines.powi(2)) * (1.0 + index as f64))
            })
            .collect();
        points.push(Point::new(100.0, 4000.0 + 900.0 * index as f64));
        Series { name: NAMES[index].into(), points, emphasis: index == 0 }
    });
    Percentiles {
        title: "Latency of 1 KiB appends at 100 connections".into(),
        subtitle: subtitle(),
        y: axis("us", Scale::Log),
        series: series.collect(),
    }
}

fn cpu(series: usize, groups: usize) -> Bars {
    let names = CONNECTIONS[..groups].iter().map(|count| format!("{count} connections"));
    let series = (0..series).map(|index| {
        let points = (0..groups).map(|group| {
            let y = (5.0 + 20.0 / (1.0 + group as f64)) * (1.0 + 0.2 * index as f64);
            let is_missing = index == 3 && group == 1;
            let y = if is_missing { f64::NAN } else { y };
            Point::new(group as f64, y).spread(y * 0.95, y * 1.08)
        });
        Series { name: NAMES[index].into(), points: points.collect(), emphasis: index == 0 }
    });
    Bars {
        title: "Server CPU per request, 1 KiB appends".into(),
        subtitle: subtitle(),
        x: axis("", Scale::Categories(names.collect())),
        y: axis("us of CPU per request", Scale::Linear),
        series: series.collect(),
    }
}

fn breakdown() -> Stack {
    let parts = ["network", "wait", "receive", "parse", "copy", "flush", "fence or sync", "reply"];
    let bar = |name: &str, parts: [f64; 8], whole| Layers {
        name: name.into(),
        parts: parts.into(),
        whole,
    };
    let none = [f64::NAN; 8];
    Stack {
        title: "Where the time of a 1 KB POST goes, one connection".into(),
        subtitle: subtitle(),
        axis: axis("us per request, mean", Scale::Linear),
        parts: parts.map(str::to_owned).into(),
        whole: "round trip that the client saw (p50)".into(),
        bars: vec![
            bar("without persistence", [31.0, 0.4, 5.5, 0.6, 0.2, 0.0, 0.0, 9.1], 46.0),
            bar("status quo", [31.0, 0.4, 5.5, 0.6, 0.4, 1.1, 0.9, 9.1], 49.5),
            bar("Impasto, shm, io_uring", [30.0, 0.4, 5.5, 0.9, 0.3, 1.2, 0.4, 9.4], 48.0),
            bar("Impasto, disk, io_uring", [31.0, 0.4, 5.5, 0.9, 0.6, 0.0, 119.0, 12.4], 171.0),
            bar(
                "write + fdatasync per request",
                [31.0, 0.4, 5.5, 0.6, 0.4, 0.0, 211.0, 9.1],
                260.0,
            ),
            bar("KCM (this kernel has none)", none, f64::NAN),
        ],
    }
}
