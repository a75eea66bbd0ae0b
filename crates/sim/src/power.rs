//! When the power fails.
//!
//! Fault model: power fails between two operations, never within one; what an operation does not do
//! at once (a write in flight, a line being written back) is torn by what the crash leaves of it.

use std::{cell::Cell, rc::Rc};

/// The power of all simulated hardware of one machine; clones are the same power.
///
/// A *site* is a moment at which a crash can make a difference: a flush, a fence, the start and the
/// completion of each device operation. A harness runs a workload once, takes
/// [`sites`](Self::sites), and runs it again with the power cut at each.
#[derive(Clone, Debug, Default)]
pub struct Power(Rc<State>);

#[derive(Debug, Default)]
struct State {
    sites: Cell<u64>,
    cut_at: Cell<Option<u64>>,
    is_off: Cell<bool>,
}

impl Power {
    /// Returns power that is on and stays on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses the site at which the power fails, before the operation there takes effect; the
    /// first site is 0.
    pub fn cut_at(&self, site: u64) {
        self.0.cut_at.set(Some(site));
    }

    /// Cuts the power now, for good.
    pub fn cut(&self) {
        self.0.is_off.set(true);
    }

    /// Returns how many sites were passed, those after the cut included.
    pub fn sites(&self) -> u64 {
        self.0.sites.get()
    }

    /// Returns false after the cut.
    pub fn is_on(&self) -> bool {
        !self.0.is_off.get()
    }

    /// Passes a site; returns true if the operation there takes effect.
    pub fn site(&self) -> bool {
        let site = self.sites();
        self.0.sites.set(site + 1);
        if self.0.cut_at.get() == Some(site) {
            self.cut();
        }
        self.is_on()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_fails_at_the_chosen_site_and_stays_off() {
        let power = Power::new();
        let other = power.clone();
        power.cut_at(2);
        assert!(power.site());
        assert!(other.site());
        assert!(power.is_on());
        assert!(!other.site());
        assert!(!power.is_on());
        assert!(!power.site());
        assert_eq!(power.sites(), 4);
    }
}
