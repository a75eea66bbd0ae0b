//! The crash checker: the real loop, store and media over the `loop` port and simulated hardware.
//!
//! A workload runs once to count the *sites* at which a crash can make a difference: every flush,
//! fence, write and sync. Then it runs again with the power cut at each; what the crash leaves is
//! started again, recovery itself is crashed, too, and what is found is compared with what clients
//! were told:
//!
//! - what was acknowledged is there with its bytes, and what was shown is still shown (D3);
//! - what was not acknowledged is absent or whole, never twice, and leaves no gap (D2);
//! - what was trimmed stays trimmed;
//! - the region can be written on, and starting it again changes nothing (D6).
//!
//! That the checker can see is shown by *canaries*: each breaks one rule on purpose and must be
//! caught.
//!
//! `IMPASTO_CRASH_SEEDS` is the number of random histories, `IMPASTO_SEED` the first of them. What
//! this shows is the model's power loss, not a real device's.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test that says what it saw")]

#[path = "crash/canary.rs"]
mod canary;
#[path = "crash/client.rs"]
mod client;
#[path = "crash/history.rs"]
mod history;
#[path = "crash/machine.rs"]
mod machine;

use canary::Canary;
use history::{History, Script};
use impasto_sim::{Atom, Cache, Fate, Model, Rng};
use machine::{Hardware, Image, Machine};

const FLUSH: Hardware = disk(Cache::FlushOnDsync, Atom::Sector);
const FUA: Hardware = disk(Cache::Fua, Atom::Block);
const HARDWARE: [Hardware; 3] = [Hardware::Pmem, FLUSH, FUA];

const fn disk(cache: Cache, atom: Atom) -> Hardware {
    Hardware::Disk(Model { cache, atom })
}

/// One crash of a workload, and what is found after it.
struct Trial<'a> {
    hardware: Hardware,
    canary: Canary,
    seed: u64,
    script: &'a Script,
}

impl Trial<'_> {
    /// Runs the script on `image`, with the power cut at `site`; returns what the crash leaves, or
    /// `None` if the run has fewer sites.
    fn crash(&self, image: &Image, history: &mut History, site: u64, fate: Fate) -> Option<Image> {
        let mut machine = self.start(image).expect("a region that was not damaged starts");
        history.check(&mut machine).expect("it was checked before");
        machine.power.cut_at(machine.power.sites() + site);
        history.run(self.script, &mut machine);
        machine.crash(fate)
    }

    fn start(&self, image: &Image) -> Result<Machine, String> {
        Machine::start(image, self.hardware, self.canary, self.seed)
    }

    /// Returns how many sites the script has.
    fn sites(&self, image: &Image) -> u64 {
        let mut machine = self.start(image).expect("a region that was not damaged starts");
        let before = machine.power.sites();
        History::default().run(self.script, &mut machine);
        machine.power.sites() - before
    }

    /// Crashes recovery at `site`; returns what is left then, or `None` if it has fewer sites.
    fn crash_recovery(&self, image: &Image, site: u64, fate: Fate) -> Option<Image> {
        Machine::crash_in_start(image, self.hardware, self.canary, self.seed, site, fate)
    }

    /// Compares what is found in `image` with what clients were told.
    fn check(&self, image: &Image, history: &mut History) -> Result<(), String> {
        let mut machine = self.start(image)?;
        history.check(&mut machine)?;
        history.append_to_all(&mut machine)?;
        machine.power.cut_at(machine.power.sites());
        machine.pass_a_site();
        let again = machine.crash(Fate::Nothing).expect("the power was cut");
        let mut machine = self.start(&again)?;
        history.check(&mut machine)
    }
}

fn fates(seed: u64) -> [Fate; 4] {
    [Fate::Nothing, Fate::Everything, Fate::Seeded(seed), Fate::Seeded(seed ^ 0x5555)]
}

/// Crashes at every site of a short workload, in every fate; returns the first lie.
fn exhaust(hardware: Hardware, canary: Canary, seed: u64, length: usize) -> Result<u64, String> {
    let script = Script::random(&mut Rng::new(seed), length);
    let trial = Trial { hardware, canary, seed, script: &script };
    let fresh = Image::fresh(hardware);
    let sites = trial.sites(&fresh);
    let mut trials = 0;
    for site in 0..sites {
        for fate in fates(seed.wrapping_mul(31).wrapping_add(site)) {
            let mut history = History::default();
            let Some(found) = trial.crash(&fresh, &mut history, site, fate) else { continue };
            let told = |lie| format!("{hardware:?}, seed {seed}, site {site}, {fate:?}: {lie}");
            trial.check(&found, &mut history).map_err(told)?;
            trials += 1;
        }
    }
    Ok(trials)
}

/// Without any one of the rules D1 to D8 some crash loses, tears, repeats or resurrects something.
#[test]
fn a_crash_at_every_site_loses_nothing_that_was_acknowledged() {
    for hardware in HARDWARE {
        let trials = exhaust(hardware, Canary::None, 1, 14).unwrap_or_else(|lie| panic!("{lie}"));
        println!("{hardware:?}: {trials} crashes");
        assert!(trials > 40, "a workload has sites");
    }
}

/// D6: recovery writes, too; a crash in it must not matter.
#[test]
fn a_crash_at_every_site_of_recovery_changes_nothing() {
    for hardware in HARDWARE {
        let script = Script::random(&mut Rng::new(5), 10);
        let trial = Trial { hardware, canary: Canary::None, seed: 5, script: &script };
        let fresh = Image::fresh(hardware);
        let sites = trial.sites(&fresh);
        let mut trials = 0;
        for site in (0..sites).step_by(5) {
            let mut history = History::default();
            let fate = Fate::Seeded(site);
            let found =
                trial.crash(&fresh, &mut history, site, fate).expect("the site was counted");
            for inner in 0.. {
                let Some(again) = trial.crash_recovery(&found, inner, fate) else { break };
                let mut history = history.clone();
                let lie = trial.check(&again, &mut history).err();
                assert_eq!(lie, None, "{hardware:?}, site {site}, recovery site {inner}");
                trials += 1;
            }
        }
        assert!(trials > 10, "recovery has sites");
    }
}

/// Two lives of one region, each ended by a crash at a random site; the second goes on where the
/// first left void commits behind it (D6).
fn two_lives(hardware: Hardware, canary: Canary, seed: u64) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let mut history = History::default();
    let mut image = Image::fresh(hardware);
    for life in 0..2 {
        let length = 4 + rng.index(16);
        let script = Script::random(&mut rng, length);
        let trial = Trial { hardware, canary, seed, script: &script };
        let mut site = rng.below(60);
        let fate = fates(rng.below(u64::MAX))[rng.index(4)];
        if life > 0 {
            // Its lies are this function's result, not the next life's panic.
            let nothing = Script::default();
            let trial = Trial { hardware, canary, seed, script: &nothing };
            history.check(&mut trial.start(&image)?)?;
        }
        let before = history.clone();
        image = loop {
            history = before.clone();
            match trial.crash(&image, &mut history, site, fate) {
                Some(found) => break found,
                None if site == 0 => break image,
                None => site /= 2,
            }
        };
    }
    let script = Script::default();
    Trial { hardware, canary, seed, script: &script }.check(&image, &mut history)
}

/// Many lives of one region, each ended by a crash, while its log goes round.
fn round(hardware: Hardware, seed: u64, lives: usize) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let mut history = History::default();
    let mut image = Image::fresh(hardware);
    for _ in 0..lives {
        let length = 30 + rng.index(50);
        let script = Script::round(&mut rng, length);
        let trial = Trial { hardware, canary: Canary::None, seed, script: &script };
        // If the script ends before, the power fails when all is quiet.
        let site = rng.below(250);
        let fate = fates(rng.below(u64::MAX))[rng.index(4)];
        let mut machine = trial.start(&image)?;
        history.check(&mut machine)?;
        machine.power.cut_at(machine.power.sites() + site);
        history.run(&script, &mut machine);
        if machine.power.is_on() {
            machine.power.cut_at(machine.power.sites());
            machine.pass_a_site();
        }
        image = machine.crash(fate).expect("the power was cut");
    }
    let script = Script::default();
    Trial { hardware, canary: Canary::None, seed, script: &script }.check(&image, &mut history)
}

/// D4: segments and buffers that are used again before what freed them is durable, or whose old
/// bytes recovery still looks at, cost acknowledged records. Short workloads never use any again.
#[test]
fn crashes_while_the_log_goes_round_lose_nothing() {
    let (first, count) = random_histories();
    for seed in first..first + count.div_ceil(10) {
        for hardware in HARDWARE {
            let told = round(hardware, seed, 8);
            assert_eq!(told, Ok(()), "{hardware:?}, IMPASTO_SEED={seed}");
        }
    }
}

fn random_histories() -> (u64, u64) {
    let number = |name: &str, default| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    (number("IMPASTO_SEED", 1), number("IMPASTO_CRASH_SEEDS", 60))
}

#[test]
fn random_histories_of_two_lives_hold() {
    let (first, count) = random_histories();
    println!("IMPASTO_SEED={first}, IMPASTO_CRASH_SEEDS={count}");
    for seed in first..first + count {
        for hardware in HARDWARE {
            let told = two_lives(hardware, Canary::None, seed);
            assert_eq!(told, Ok(()), "{hardware:?}, IMPASTO_SEED={seed}");
        }
    }
}

/// Returns the first lie of a server with a broken rule, and says it.
fn catch(hardware: Hardware, canary: Canary) -> Option<String> {
    let lie = (1..40).find_map(|seed| exhaust(hardware, canary, seed, 8).err());
    println!("{canary:?}: {lie:?}");
    lie
}

/// D1 on memory: a record must not become durable before the payload that it names.
#[test]
fn a_dropped_payload_flush_is_caught() {
    assert!(catch(Hardware::Pmem, Canary::DropPayloadFlush).is_some());
}

/// D1 on memory: without the first fence the record may be evicted first.
#[test]
fn a_dropped_fence_is_caught() {
    assert!(catch(Hardware::Pmem, Canary::DropFences).is_some());
}

/// D3: a reply before its commit shows what a crash can take back.
#[test]
fn a_reply_before_its_commit_is_caught() {
    assert!(catch(FLUSH, Canary::ReplyEarly).is_some());
}

/// D8: completion alone is not durability.
#[test]
fn an_acknowledgement_past_a_hole_is_caught() {
    assert!(catch(FUA, Canary::IgnoreHoles).is_some());
}

/// D1 on disk: the log write's DSYNC says nothing about the body's.
#[test]
fn a_dropped_body_sync_is_caught() {
    assert!(catch(FUA, Canary::DropSyncs).is_some());
}

/// D6: a hole is filled by a commit of the same size, and what stands behind it looks like its
/// continuation.
#[test]
fn a_skipped_epoch_is_caught() {
    let refill = |canary, seed| {
        let fresh = Image::fresh(FUA);
        let mut history = History::default();
        let script = Script::equal_appends(6);
        let trial = Trial { hardware: FUA, canary, seed, script: &script };
        let site = 2 + seed % (trial.sites(&fresh) - 2);
        let found = trial.crash(&fresh, &mut history, site, Fate::Seeded(seed));
        let script = Script::equal_appends(1);
        let trial = Trial { hardware: FUA, canary, seed, script: &script };
        let mut machine = trial.start(&found.expect("six appends have sites"))?;
        history.check(&mut machine)?;
        history.run(&script, &mut machine);
        machine.power.cut_at(machine.power.sites());
        machine.pass_a_site();
        let found = machine.crash(Fate::Nothing).expect("the power was cut");
        trial.check(&found, &mut history)
    };
    let caught =
        (1..400).find_map(|seed| refill(Canary::KeepEpoch, seed).err().map(|lie| (seed, lie)));
    println!("{:?}: {caught:?}", Canary::KeepEpoch);
    let (seed, _) = caught.expect("void commits come back");
    assert_eq!(refill(Canary::None, seed), Ok(()));
}
