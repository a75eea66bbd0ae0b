//! Invented data, drawn.

use super::*;

fn axis(label: &str, scale: Scale) -> Axis {
    Axis { label: label.into(), scale }
}

fn series(name: &str, points: &[(f64, f64)], emphasis: bool) -> Series {
    let points = points.iter().map(|(x, y)| Point::new(*x, *y).spread(y * 0.95, y * 1.06));
    Series { name: name.into(), points: points.collect(), emphasis }
}

fn chart(series: Vec<Series>) -> Chart {
    Chart {
        title: "Appends of 1 KiB per second & connections".into(),
        subtitle: "a machine, Linux 6.18, commit 0123456789ab, impasto-bench compare".into(),
        x: axis("connections", Scale::Log),
        y: axis("requests per second", Scale::Linear),
        series,
    }
}

fn count(svg: &str, what: &str) -> usize {
    svg.matches(what).count()
}

/// Polylines of lines; those of the grid and of the axes have two places, and another colour.
fn lines(svg: &str) -> usize {
    let lines = svg.lines().filter(|line| line.starts_with("<polyline"));
    lines
        .filter(|line| line.contains("stroke-width=\"4\"") || line.contains("stroke-width=\"8\""))
        .count()
}

#[test]
fn a_chart_says_what_it_shows_and_has_a_line_for_each_series() {
    let points = [(1.0, 16_000.0), (8.0, 90_000.0), (1000.0, 180_000.0)];
    let names = ["impasto", "by hand <fast>", "third"];
    let chart = chart(names.iter().map(|name| series(name, &points, *name == "impasto")).collect());
    let svg = chart.svg();
    assert_eq!(lines(&svg), 3);
    let texts = ["impasto", "by hand &lt;fast&gt;", "&amp; connections", "0123456789ab", "1,000"];
    for text in texts.into_iter().chain(["requests per second", "connections", "200,000"]) {
        assert!(svg.contains(text), "{text}");
    }
}

/// A line through a value that was not measured says that it was.
#[test]
fn a_missing_value_is_a_gap() {
    let points = [(1.0, 10.0), (8.0, 20.0), (32.0, f64::NAN), (100.0, 40.0), (400.0, 45.0)];
    let whole = chart(vec![series("whole", &points[..2], false)]).svg();
    let svg = chart(vec![series("a", &points, false)]).svg();
    assert_eq!((lines(&whole), lines(&svg)), (1, 2));
    // A mark for each value, and one in the legend.
    assert_eq!(count(&svg, "<circle"), 5);
    let mut log = chart(vec![series("a", &[(1.0, 0.0), (2.0, 5.0), (4.0, 7.0)], false)]);
    log.y.scale = Scale::Log;
    assert_eq!((lines(&log.svg()), count(&log.svg(), "<circle")), (1, 3));
}

#[test]
fn little_data_is_drawn_as_well_as_none() {
    for points in [&[][..], &[(8.0, 5.0)], &[(8.0, f64::NAN)], &[(0.0, 0.0)]] {
        for scale in [Scale::Linear, Scale::Log, Scale::Bytes, Scale::Nines] {
            let mut chart = chart(vec![series("a", points, false)]);
            (chart.x.scale, chart.y.scale) = (scale.clone(), scale);
            assert!(!chart.svg().contains("NaN"));
        }
    }
    assert!(chart(Vec::new()).svg().contains("requests per second"));
}

#[test]
fn percentiles_end_with_the_greatest_value() {
    let points = [(50.0, 60.0), (90.0, 70.0), (99.0, 81.0), (99.9, 140.0), (100.0, 900.0)];
    let percentiles = Percentiles {
        title: "Latency".into(),
        subtitle: String::new(),
        y: axis("us", Scale::Log),
        series: vec![series("impasto", &points, true)],
    };
    let svg = percentiles.svg();
    assert!(["99.9\n", "max", "percentile"].iter().all(|text| svg.contains(text)));
    assert_eq!(lines(&svg), 1);
}

fn stack() -> Stack {
    let bar =
        |name: &str, parts: &[f64], whole| Layers { name: name.into(), parts: parts.into(), whole };
    Stack {
        title: "Where the time of a request goes".into(),
        subtitle: "a machine".into(),
        axis: axis("us", Scale::Linear),
        parts: ["network", "parse", "sync"].map(str::to_owned).into(),
        whole: "round trip".into(),
        bars: vec![
            bar("shm", &[40.0, 1.0, 2.0], 43.5),
            bar("disk", &[40.0, 1.0, 120.0], 161.0),
            bar("kcm", &[f64::NAN; 3], f64::NAN),
        ],
    }
}

/// A bar of nothing would say that it took no time.
#[test]
fn what_was_not_measured_has_no_bar() {
    let svg = stack().svg();
    for text in ["network", "parse", "sync", "round trip", "161", "not measured", "kcm"] {
        assert!(svg.contains(text), "{text}");
    }
    let x = axis("connections", Scale::Categories(vec!["1".into(), "8".into()]));
    let bars = |y| Bars {
        title: "CPU per request".into(),
        subtitle: String::new(),
        x: x.clone(),
        y: axis("us", Scale::Linear),
        series: vec![series("impasto", &[(0.0, 5.5), (1.0, y)], true)],
    };
    let (measured, missing) = (bars(3.0).svg(), bars(f64::NAN).svg());
    assert_eq!(count(&measured, "?\n"), 0);
    assert_eq!(count(&missing, "?\n"), 1);
    // The bar and its whisker.
    assert_eq!(count(&measured, "<rect"), count(&missing, "<rect") + 2);
}

#[test]
fn both_files_are_written_and_the_png_has_the_size_of_the_svg() {
    let dir = tempfile::tempdir().unwrap();
    let written = chart(vec![series("a", &[(1.0, 2.0), (2.0, 3.0)], false)]);
    // What looks like an ending is a part of the name.
    let [svg, png] = written.write(&dir.path().join("p99.9")).unwrap();
    assert!(svg.ends_with("p99.9.svg") && png.ends_with("p99.9.png"));
    assert_eq!(std::fs::read_to_string(svg).unwrap(), written.svg());
    let png = std::fs::read(png).unwrap();
    let decoded = resvg::tiny_skia::Pixmap::decode_png(&png).unwrap();
    assert_eq!((decoded.width(), decoded.height()), (1600, 1000));
}

#[test]
fn a_place_that_cannot_be_written_is_a_plain_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = stack().write(&dir.path().join("no/such/place")).unwrap_err();
    assert!(error.to_string().starts_with("cannot write /"), "{error}");
    assert!(error.to_string().contains("place.svg: No such file"), "{error}");
}
