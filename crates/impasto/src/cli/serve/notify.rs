//! What a service manager is told: that the server is ready, and again and again that it is alive
//! (`sd_notify(3)`). Without one nothing is said.

use std::{sync::mpsc, thread};

use sd_notify::NotifyState;

use crate::cli::say;

/// Tells that requests are answered from now on, and where.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Runs `serve`; meanwhile, if a watchdog is asked for, tells it twice in its time that the server
/// is alive, each time after `look` has returned: a server that is stuck is ended and started anew.
pub(super) fn watched<R>(look: impl Fn() + Send, serve: impl FnOnce() -> R) -> R {
    let Some(time) = sd_notify::watchdog_enabled() else {
        return serve();
    };
    thread::scope(|scope| {
        let (served, end) = mpsc::channel::<()>();
        scope.spawn(move || {
            while end.recv_timeout(time / 2) == Err(mpsc::RecvTimeoutError::Timeout) {
                look();
                tell(&[NotifyState::Watchdog]);
            }
        });
        let result = serve();
        drop(served);
        result
    })
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        say(&format!("impasto: cannot tell the service manager (NOTIFY_SOCKET): {error}"));
    }
}
