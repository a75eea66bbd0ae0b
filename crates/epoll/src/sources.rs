//! What the kernel watches for us, and who waits for it.
//!
//! Watching is level-triggered, and costs a system call for each change. So it lags behind what is
//! wanted: more is watched at once, less only when something comes that nobody wants.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
};

use impasto_uring::{Fd, Op, WeakFd};
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    io::Errno,
};

/// Descriptors by number.
#[derive(Debug)]
pub(crate) struct Sources {
    epoll: OwnedFd,
    by_number: Vec<Source>,
}

/// A descriptor, and what waits for it.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// Whom this is of: numbers are used again.
    fd: WeakFd,
    /// `None`: nothing, not even errors.
    watched: Option<EventFlags>,
    /// The receive in flight.
    pub(crate) receive: Option<Op>,
    /// A send that waits for room.
    pub(crate) send: Option<Op>,
    /// Accepts and polls.
    pub(crate) others: VecDeque<Op>,
}

/// Names what is watched by edge and is no source.
pub(crate) const BELL: u64 = u64::MAX;
/// What the kernel says at once; the others come with the next call.
const EVENTS: usize = 256;
/// What ends a wait for bytes: there are some, there will be none, or an error is there.
const READABLE: EventFlags = EventFlags::IN.union(GONE);
/// What ends a wait for room.
const WRITABLE: EventFlags = EventFlags::OUT.union(GONE);
/// Told whether it is watched or not.
const GONE: EventFlags = EventFlags::HUP.union(EventFlags::ERR);

impl Source {
    fn wanted(&self) -> EventFlags {
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, self.receive.is_some() || !self.others.is_empty());
        wanted.set(EventFlags::OUT, self.send.is_some());
        wanted
    }
}

impl Sources {
    /// Returns one that watches `bell` by edge.
    pub(crate) fn new(bell: impl AsFd) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, bell, EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)?;
        Ok(Self { epoll, by_number: Vec::new() })
    }

    /// Waits for `timeout` at most, and puts what the kernel says into `events`.
    pub(crate) fn wait(
        &self,
        events: &mut Vec<Event>,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        events.clear();
        events.reserve(EVENTS);
        let timeout = timeout.map(whole_millis);
        match epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref()) {
            Err(error) if error != Errno::INTR => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Returns the source of `fd`.
    pub(crate) fn of(&mut self, fd: &Fd) -> &mut Source {
        let number = number(fd);
        if self.by_number.len() <= number {
            self.by_number.resize_with(number + 1, Source::default);
        }
        let source = &mut self.by_number[number];
        if !source.fd.is(fd) {
            // The one before is closed, so that the kernel has forgotten it.
            *source = Source { fd: fd.downgrade(), ..Source::default() };
        }
        source
    }

    /// Returns the source that an event is of.
    pub(crate) fn at(&mut self, event: Event) -> Option<&mut Source> {
        self.by_number.get_mut(usize::try_from(event.data.u64()).ok()?)
    }

    /// Has the kernel watch for what is wanted of `fd`.
    pub(crate) fn widen(&mut self, fd: &Fd) -> io::Result<()> {
        let source = self.of(fd);
        let (wanted, watched) = (source.wanted(), source.watched);
        if watched.is_some_and(|watched| watched.contains(wanted)) {
            return Ok(());
        }
        let flags = wanted | watched.unwrap_or(EventFlags::empty());
        self.watch(fd, Some(flags))
    }

    /// Has the kernel watch no more than what is wanted of what an event is of.
    pub(crate) fn narrow_at(&mut self, event: Event) {
        if let Some(fd) = self.at(event).and_then(|source| source.fd.upgrade()) {
            self.narrow(&fd);
        }
    }

    /// Has the kernel watch no more than what is wanted of `fd`.
    pub(crate) fn narrow(&mut self, fd: &Fd) {
        let source = &self.by_number[number(fd)];
        let wanted = Some(source.wanted()).filter(|wanted| !wanted.is_empty());
        if wanted != source.watched {
            // If the kernel refuses to watch less, it has nothing to watch any more.
            let _gone = self.watch(fd, wanted);
        }
    }

    fn watch(&mut self, fd: &Fd, flags: Option<EventFlags>) -> io::Result<()> {
        let number = number(fd);
        let watched = &mut self.by_number[number].watched;
        let event = EventData::new_u64(number as u64);
        match (*watched, flags) {
            (None, None) => {}
            (None, Some(flags)) => epoll::add(&self.epoll, fd, event, flags)?,
            (Some(_), Some(flags)) => epoll::modify(&self.epoll, fd, event, flags)?,
            (Some(_), None) => epoll::delete(&self.epoll, fd)?,
        }
        *watched = flags;
        Ok(())
    }
}

/// Returns true if an event says that something can be read, or never will be.
pub(crate) fn is_readable(event: Event) -> bool {
    flags(event).intersects(READABLE)
}

/// Returns true if an event says that something can be written, or never will be.
pub(crate) fn is_writable(event: Event) -> bool {
    flags(event).intersects(WRITABLE)
}

fn flags(event: Event) -> EventFlags {
    event.flags
}

fn number(fd: &Fd) -> usize {
    usize::try_from(fd.as_fd().as_raw_fd()).expect("a descriptor has a number")
}

/// Rounds up, to what every kernel and every filter of system calls knows: too early would be a
/// wait that ends for nothing, again and again.
fn whole_millis(time: Duration) -> Timespec {
    let millis = time.as_nanos().div_ceil(1_000_000);
    let millis = i64::try_from(millis).unwrap_or(i64::MAX).min(i64::from(i32::MAX));
    Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounded down, the last millisecond before a deadline would be spent spinning.
    #[test]
    fn waits_are_rounded_up_to_milliseconds() {
        for (nanos, wanted) in
            [(0, (0, 0)), (1, (0, 1)), (1_000_000, (0, 1)), (1_999_000_001, (2, 0))]
        {
            let time = whole_millis(Duration::from_nanos(nanos));
            assert_eq!((time.tv_sec, time.tv_nsec), (wanted.0, wanted.1 * 1_000_000), "{nanos}");
        }
        assert_eq!(whole_millis(Duration::MAX).tv_sec, i64::from(i32::MAX) / 1000);
    }
}
