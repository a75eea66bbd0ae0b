//! Places that look like persistent memory and do not keep what is stored there, or that cannot be
//! used: `impasto serve --medium pmem` has to refuse them, and to say why.

use super::guest::{Event, Guest, Machine};
use crate::Failure;

/// Names of the places, as `vm/init` makes them, and a part of what has to be said.
const REFUSALS: [(&str, &str); 5] = [
    ("tmpfs", "ordinary memory"),
    ("raw-device", "-m fsdax"),
    ("raw", "no DAX"),
    // It maps, with dax=always, and not with MAP_SYNC.
    ("virtio", "virtio-pmem"),
    ("off", "-o dax"),
];
/// Something went wrong, and the text says what.
const REFUSED: i32 = 1;

/// Boots the guest that tries them all.
pub(super) fn all(machine: &Machine<'_>) -> Result<(), Failure> {
    let mut guest = Guest::boot(machine)?;
    let mut expected = REFUSALS.iter();
    loop {
        let (name, code) = match guest.next()? {
            Event::Ended(name, code) => (name, code),
            Event::Ready(name) => return Err(guest.failed(&format!("serves {name}"))),
            Event::Done => break,
        };
        let said = guest.said(&name);
        print!("{name}: {said}");
        match expected.next() {
            Some((wanted, text)) if *wanted == name => {
                if code != REFUSED || !said.contains(text) {
                    let what = format!("refuses {name} with {code}, and without {text:?}:");
                    return Err(guest.failed(&format!("{what}\n{said}")));
                }
            }
            _ => return Err(guest.failed(&format!("tries {name}, which nobody expects"))),
        }
    }
    match expected.next() {
        Some((name, _)) => Err(guest.failed(&format!("has not tried {name}"))),
        None => guest.end(),
    }
}
