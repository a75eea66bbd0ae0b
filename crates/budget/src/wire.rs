//! Rates and frames: how long a packet may take.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// A line rate in bits per second.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Rate(f64);

impl Rate {
    /// Returns so many Gb/s.
    pub const fn gigabits(count: f64) -> Self {
        Self(count * 1e9)
    }

    /// Returns it in Gb/s.
    pub fn as_gigabits(self) -> f64 {
        self.0 / 1e9
    }

    /// Returns the nanoseconds from one frame to the next, if the line is full of them.
    pub fn packet_ns(self, frame: Frame) -> f64 {
        f64::from(frame.0) * 8e9 / self.0
    }

    /// Returns the frames in a second.
    pub fn packets_per_second(self, frame: Frame) -> f64 {
        1e9 / self.packet_ns(frame)
    }

    /// Returns the rate of a line that has `ns` from one frame to the next.
    pub fn of_packets(frame: Frame, ns: f64) -> Self {
        Self(f64::from(frame.0) * 8e9 / ns)
    }
}

impl FromStr for Rate {
    type Err = &'static str;

    /// Parses `100G`, `2.5G`, `1T`, `100M`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "write it in bits per second, like 10G, 100G or 1T";
        let unit = text.chars().last().ok_or(FORM)?;
        let scale = match unit.to_ascii_uppercase() {
            'M' => 1e6,
            'G' => 1e9,
            'T' => 1e12,
            _ => return Err(FORM),
        };
        let number: f64 = text[..text.len() - 1].parse().map_err(|_| FORM)?;
        let rate = number * scale;
        if !number.is_finite() {
            Err(FORM)
        } else if (1e6..=1e15).contains(&rate) {
            Ok(Self(rate))
        } else {
            Err("a rate is from 1M to 1000T")
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bits if bits >= 1e12 => write!(f, "{} Tb/s", bits / 1e12),
            bits if bits >= 1e9 => write!(f, "{} Gb/s", bits / 1e9),
            bits => write!(f, "{} Mb/s", bits / 1e6),
        }
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0)
    }
}

/// What a frame takes on the wire, in bytes: the preamble and the gap behind it included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Frame(u32);

impl Frame {
    /// The smallest.
    pub const MIN: Self = Self(64 + Self::NOT_STORED);
    /// The largest without jumbo frames.
    pub const FULL: Self = Self(1518 + Self::NOT_STORED);
    /// The largest jumbo frame that is common.
    pub const MAX: Self = Self(9018 + Self::NOT_STORED);
    /// Preamble and gap: they never reach memory.
    const NOT_STORED: u32 = 20;

    /// Returns a frame that takes `bytes` on the wire, or `None` if there is none such.
    pub fn on_wire(bytes: u32) -> Option<Self> {
        (Self::MIN.0..=Self::MAX.0).contains(&bytes).then_some(Self(bytes))
    }

    /// As [`on_wire`](Self::on_wire), of which `bytes` land in memory.
    pub fn in_memory(bytes: u32) -> Option<Self> {
        bytes.checked_add(Self::NOT_STORED).and_then(Self::on_wire)
    }

    /// Returns the bytes on the wire.
    pub const fn wire_bytes(self) -> u32 {
        self.0
    }

    /// Returns the bytes that land in memory.
    pub const fn memory_bytes(self) -> u32 {
        self.0 - Self::NOT_STORED
    }
}

impl FromStr for Frame {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().ok().and_then(Self::on_wire).ok_or_else(|| {
            let (min, max) = (Self::MIN.0, Self::MAX.0);
            format!("a frame takes {min} to {max} bytes on the wire, preamble and gap included")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures of Corbet, LWN 629155.
    #[test]
    fn a_packet_may_take_what_the_articles_say() {
        let near = |found: f64, expected: f64| (found - expected).abs() < expected / 1000.0;
        let gigabits = Rate::gigabits;
        assert!(near(gigabits(10.0).packet_ns(Frame::FULL), 1230.4));
        assert!(near(gigabits(40.0).packet_ns(Frame::FULL), 307.6));
        assert!(near(gigabits(100.0).packet_ns(Frame::FULL), 123.04));
        assert!(near(gigabits(10.0).packet_ns(Frame::MIN), 67.2));
        assert!(near(gigabits(100.0).packets_per_second(Frame::FULL), 8.127e6));
        assert!(near(gigabits(10.0).packets_per_second(Frame::MIN), 14.88e6));
        assert!(near(Rate::of_packets(Frame::FULL, 123.04).as_gigabits(), 100.0));
    }

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, gigabits) in [("100G", 100.0), ("1T", 1000.0), ("2.5g", 2.5), ("100M", 0.1)] {
            assert_eq!(text.parse(), Ok(Rate::gigabits(gigabits)), "{text}");
        }
        assert_eq!(Rate::gigabits(1000.0).to_string(), "1 Tb/s");
        for text in ["", "G", "100", "fast", "100Gb", "NaNG", "infG", "\u{e9}"] {
            assert!(text.parse::<Rate>().unwrap_err().contains("100G"), "{text}");
        }
        for text in ["0G", "-1G", "1e9T"] {
            assert!(text.parse::<Rate>().unwrap_err().contains("from 1M"), "{text}");
        }
    }

    #[test]
    fn frames_have_the_sizes_that_there_are() {
        assert_eq!("84".parse(), Ok(Frame::MIN));
        assert_eq!(Frame::FULL.wire_bytes(), 1538);
        for text in ["83", "9039", "-84", "big", ""] {
            assert!(text.parse::<Frame>().unwrap_err().contains("84 to 9038"), "{text}");
        }
    }
}
