//! What follows from the figures: cores that a line takes, and the rate at which memory ends it.

use serde::Serialize;

use crate::{Frame, Rate, path::Path};

/// What a line full of frames asks of this machine.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The line's rate.
    pub rate: Rate,
    /// Its frames.
    pub frame: Frame,
    /// Nanoseconds from one frame to the next.
    pub packet_ns: f64,
    /// Frames in a second.
    pub packets_per_second: f64,
    /// What our path takes for one, in nanoseconds.
    pub path_ns: f64,
    /// Cores that this takes, if they do not hinder each other.
    pub cores: f64,
    /// Bytes in a second that cross the memory bus.
    pub memory_bytes_per_second: f64,
    /// The part of the bus that this is; `None` if that was not measured.
    pub memory_share: Option<f64>,
}

/// The rates that the articles speak of.
pub const RATES: [Rate; 5] = [
    Rate::gigabits(10.0),
    Rate::gigabits(40.0),
    Rate::gigabits(100.0),
    Rate::gigabits(400.0),
    Rate::gigabits(1000.0),
];

/// Bytes of a record before the value that stands in it.
const RECORD_HEAD_BYTES: u32 = 32;

impl Line {
    /// Returns what a line of `rate` asks, if its packets take `path`, of a memory bus that moves
    /// so many bytes in a second.
    pub fn new(rate: Rate, path: &Path, bus: Option<f64>) -> Self {
        let frame = path.frame;
        let (packet_ns, path_ns) = (rate.packet_ns(frame), path.path.median);
        let packets_per_second = rate.packets_per_second(frame);
        let memory_bytes_per_second = packets_per_second * traffic(frame, path.inline);
        Self {
            rate,
            frame,
            packet_ns,
            packets_per_second,
            path_ns,
            cores: path_ns / packet_ns,
            memory_bytes_per_second,
            memory_share: bus.map(|bus| memory_bytes_per_second / bus),
        }
    }
}

/// Returns the bytes that cross the memory bus for a frame: [`ASSUMPTIONS`] names them.
pub fn traffic(frame: Frame, inline: bool) -> f64 {
    let bytes = frame.memory_bytes();
    let crossings = if inline {
        let record = (RECORD_HEAD_BYTES + bytes).next_multiple_of(8);
        2 * bytes + 2 * record
    } else {
        3 * bytes
    };
    f64::from(crossings)
}

/// Returns the rate of a line of such frames at which memory has no more to give.
pub fn memory_ends(path: &Path, bus: f64) -> Rate {
    Rate::of_packets(path.frame, traffic(path.frame, path.inline) * 1e9 / bus)
}

/// What the figures take for granted.
pub const ASSUMPTIONS: [&str; 7] = [
    "Frames are given as on the wire; 20 bytes of each, preamble and gap, never reach memory.",
    "The path is ours alone: packets are in memory when it begins, nothing is parsed, and no reply \
     is sent.",
    "Cold: packets are in memory and in no cache, as DMA without DDIO leaves them. Warm: they were \
     just written by this core.",
    "A turn takes 64 packets, and one commit with two fences makes them durable; up to 512 bytes a \
     value is copied to its record.",
    "Cores count as if workers did not wait for each other; but appends to one region take turns \
     (D3), so more than one core means more than one region.",
    "A byte of a kept frame crosses the memory bus three times: DMA write, read for the checksum, \
     write-back; its record is left out. One that is copied four times, with its record's head.",
    "The bus moves as much as was seen, by one thread or by all: what they read, or twice what \
     they copy. The memory is DRAM: persistent memory writes more slowly.",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Figure, path::State};

    fn path(frame: Frame, inline: bool, ns: f64) -> Path {
        let figure = Figure { median: ns, low: ns, high: ns, min: ns };
        let rate = Rate::of_packets(frame, ns);
        Path { frame, state: State::Cold, inline, path: figure, rate, parts: Vec::new() }
    }

    #[test]
    fn a_line_takes_as_many_cores_as_packets_come_while_one_is_on_its_path() {
        let path = path(Frame::FULL, false, 246.08);
        let line = Line::new(Rate::gigabits(100.0), &path, Some(73e9));
        assert!((line.cores - 2.0).abs() < 1e-9, "{line:?}");
        assert!((line.packets_per_second - 8.127e6).abs() < 1e4);
        assert!((line.memory_bytes_per_second - 8.127e6 * 4554.0).abs() < 1e8);
        assert!((line.memory_share.unwrap() - 0.507).abs() < 1e-3);
    }

    /// The rate at which memory ends a line is the one at which it asks for all of it.
    #[test]
    fn memory_ends_where_its_share_is_one() {
        for (frame, inline) in [(Frame::FULL, false), (Frame::MIN, true)] {
            let path = path(frame, inline, 100.0);
            let end = memory_ends(&path, 50e9);
            let share = Line::new(end, &path, Some(50e9)).memory_share.unwrap();
            assert!((share - 1.0).abs() < 1e-9, "{share}");
        }
        assert!(Line::new(RATES[0], &path(Frame::MIN, true, 1.0), None).memory_share.is_none());
    }

    #[test]
    fn a_copied_frame_crosses_the_bus_with_its_record() {
        assert_eq!(traffic(Frame::MIN, true), 2.0 * 64.0 + 2.0 * 96.0);
        assert_eq!(traffic(Frame::FULL, false), 3.0 * 1518.0);
    }
}
