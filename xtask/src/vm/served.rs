//! Guests that serve under load, until they are killed, and what they have to show afterwards.

use std::time::Instant;

use super::{
    guest::{Event, Guest, Machine},
    load::{self, Count, Site},
    random::Random,
};
use crate::Failure;

/// A machine, and what is known of the servers on it.
#[derive(Debug)]
pub(super) struct Served<'a> {
    machine: &'a Machine<'a>,
    sites: Vec<Site>,
    /// A part of what each server says when it starts.
    banner: &'static str,
}

/// A process that was killed ends with this code in a shell.
const KILLED: i32 = 128 + 9;

impl<'a> Served<'a> {
    pub(super) const fn new(
        machine: &'a Machine<'a>,
        sites: Vec<Site>,
        banner: &'static str,
    ) -> Self {
        Self { machine, sites, banner }
    }

    /// Kills the machine `count` times, and stops it cleanly at last.
    pub(super) fn power_cuts(mut self, count: u64, random: &mut Random) -> Result<(), Failure> {
        for round in 1..=count {
            let guest = self.boot()?;
            let ports = guest.ports();
            self.load(&format!("power cut {round}"), random, ports, || guest.kill())?;
        }
        let guest = self.boot()?;
        self.stop(guest)
    }

    /// Kills the servers `count` times on a machine that goes on, and stops them cleanly at last.
    pub(super) fn crashes(mut self, count: u64, random: &mut Random) -> Result<(), Failure> {
        let mut guest = self.boot()?;
        let ports = guest.ports();
        for round in 1..=count {
            self.load(&format!("crash {round}"), random, ports, || guest.tell("crash"))?;
            let mut names: Vec<&str> = self.sites.iter().map(|site| site.name).collect();
            while !names.is_empty() {
                match guest.next()? {
                    Event::Ended(name, KILLED) => names.retain(|other| *other != name),
                    other => return Err(guest.failed(&format!("says {other:?} at a crash"))),
                }
            }
            self.restarted(&mut guest, "restarted")?;
        }
        self.stop(guest)
    }

    fn boot(&mut self) -> Result<Guest, Failure> {
        let mut guest = Guest::boot(self.machine)?;
        self.restarted(&mut guest, "booted")?;
        Ok(guest)
    }

    /// Waits for the servers and checks what they have.
    fn restarted(&mut self, guest: &mut Guest, how: &str) -> Result<(), Failure> {
        let start = Instant::now();
        let names: Vec<&str> = self.sites.iter().map(|site| site.name).collect();
        guest.ready(&names)?;
        if let Some(name) = names.into_iter().find(|name| !guest.said(name).contains(self.banner)) {
            return Err(guest.failed(&format!("does not say {:?} of {name}", self.banner)));
        }
        let ready = start.elapsed().as_secs_f64();
        let Count { records, bytes } = load::check(&mut self.sites, guest.ports())?;
        let checked = start.elapsed().as_secs_f64() - ready;
        let kib = bytes >> 10;
        println!(
            "{how} in {ready:.1} s; all that was acknowledged is there: {records} records, \
                  {kib} KiB, read in {checked:.1} s"
        );
        Ok(())
    }

    fn load(
        &mut self,
        what: &str,
        random: &mut Random,
        ports: [u16; 2],
        kill: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        let goal = GOAL_MIN + random.below(GOAL_SPAN);
        let done = load::until_killed(&mut self.sites, ports, random, goal, kill)?;
        let (Count { records, bytes }, seconds) = (done, start.elapsed().as_secs_f64());
        println!("{what} after {records} records, {} KiB in {seconds:.1} s", bytes >> 10);
        Ok(())
    }

    /// Stops the servers cleanly; their regions have to verify.
    fn stop(&self, mut guest: Guest) -> Result<(), Failure> {
        guest.tell("stop")?;
        let mut ended = Vec::new();
        loop {
            match guest.next()? {
                Event::Ended(name, 0) => ended.push(name),
                Event::Done => break,
                other => return Err(guest.failed(&format!("says {other:?} at its end"))),
            }
        }
        for site in &self.sites {
            let verify = format!("verify-{}", site.name);
            let inspect = format!("inspect-{}", site.name);
            let said = guest.said(&verify);
            let mut names = [site.name, &verify, &inspect].into_iter();
            let missing = names.find(|name| !ended.iter().any(|e| e == name));
            if let Some(name) = missing {
                return Err(guest.failed(&format!("has not ended {name}")));
            }
            if !said.contains("all of it verifies") {
                return Err(guest.failed(&format!("does not verify {}:\n{said}", site.name)));
            }
            print!("{said}");
        }
        guest.end()
    }
}

/// How many appends are acknowledged before the kill.
const GOAL_MIN: u64 = 100;
const GOAL_SPAN: u64 = 600;
