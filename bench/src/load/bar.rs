//! A bar in a terminal beside a load of some seconds.

use std::{
    io::{self, IsTerminal},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::client::{Limit, Watch};

/// Does `work` while a bar tells what `watch` says; without a terminal there is none.
pub(super) fn beside<T>(
    name: &'static str,
    limit: Limit,
    watch: &Watch,
    work: impl FnOnce() -> T,
) -> T {
    let long = !matches!(limit, Limit::Time(time) if time < TIME_MIN);
    if !io::stderr().is_terminal() || !long {
        return work();
    }
    thread::scope(|scope| {
        // Dropped when the work is done, in whatever way.
        let (done, is_done) = mpsc::channel::<()>();
        scope.spawn(move || draw(name, limit, watch, &is_done));
        let result = work();
        drop(done);
        result
    })
}

fn draw(name: &'static str, limit: Limit, watch: &Watch, is_done: &mpsc::Receiver<()>) {
    let start = Instant::now();
    let length = match limit {
        Limit::Requests(requests) => requests,
        Limit::Time(time) => milliseconds(time),
    };
    let style = ProgressStyle::with_template("{prefix} {bar:20} {percent:>3} %  {msg}")
        .expect("the template is well-formed");
    let bar = ProgressBar::no_length();
    let mut before = (start, 0);
    while is_done.recv_timeout(REDRAWN_EVERY) == Err(RecvTimeoutError::Timeout) {
        if bar.length().is_none() {
            // Nothing flashes by if there was nothing to wait for.
            bar.set_style(style.clone());
            bar.set_prefix(name);
            bar.set_length(length);
        }
        let (now, requests) = (Instant::now(), watch.requests());
        let rate = (requests - before.1) as f64 / (now - before.0).as_secs_f64();
        before = (now, requests);
        bar.set_position(match limit {
            Limit::Requests(_) => requests,
            Limit::Time(_) => milliseconds(start.elapsed()).min(length),
        });
        let p99_us = watch.p99_ns() as f64 / 1000.0;
        let errors = watch.errors();
        bar.set_message(format!("{rate:.0} requests/s, p99 {p99_us:.0} us, {errors} errors"));
    }
    bar.finish_and_clear();
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Several times what the client publishes after: what came in between has a rate.
const REDRAWN_EVERY: Duration = Duration::from_millis(500);
/// Of something shorter nobody wants to read.
const TIME_MIN: Duration = Duration::from_secs(2);
