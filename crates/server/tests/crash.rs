//! The crash checker: the real loop, store and media over the `loop` port and simulated hardware.
//!
//! One worker serves, or two over one region: which of them takes its turn next follows from the
//! seed, and one that would wait takes none, so that a missing wake-up is a reply that never comes.
//! A completion of the device reaches the worker that started the operation, and a fence covers
//! what the same worker has flushed.
//!
//! A workload runs once to count the *sites* at which a crash can make a difference: every flush,
//! fence, write and sync. Then it runs again with the power cut at each; what the crash leaves is
//! started again, recovery itself is crashed, too, and what is found is compared with what clients
//! were told:
//!
//! - what was acknowledged is there with its bytes, and what was shown is still shown (D3);
//! - what was not acknowledged is absent or whole, never twice, and leaves no gap (D2);
//! - what one client sent takes effect in its order, and what one client was told another one sees,
//!   whichever worker it asks (D3);
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
#[path = "crash/script.rs"]
mod script;
#[path = "crash/wires.rs"]
mod wires;

use canary::Canary;
use history::History;
use impasto_region::Extent;
use impasto_sim::{Atom, Cache, Fate, Model, Rng};
use machine::{Hardware, Image, Machine, Setup};
use script::Script;

const FLUSH: Hardware = disk(Cache::FlushOnDsync, Atom::Sector);
const FUA: Hardware = disk(Cache::Fua, Atom::Block);
const HARDWARE: [Hardware; 3] = [Hardware::Pmem, FLUSH, FUA];

const fn disk(cache: Cache, atom: Atom) -> Hardware {
    Hardware::Disk(Model { cache, atom })
}

/// A workload, and who serves it.
struct Trial<'a> {
    setup: Setup,
    script: &'a Script,
}

impl Trial<'_> {
    /// Runs the script on `image`, with the power cut at `site`, if it has so many.
    fn run(&self, image: &Image, history: &mut History, site: u64) -> Machine {
        let mut machine = self.start(image).expect("a region that was not damaged starts");
        history.check(&mut machine).expect("it was checked before");
        machine.power.cut_at(machine.power.sites().saturating_add(site));
        history.run(self.script, &mut machine);
        machine
    }

    /// As [`run`](Self::run); returns what the crash leaves, or `None` if the run has fewer sites.
    fn crash(&self, image: &Image, history: &mut History, site: u64, fate: Fate) -> Option<Image> {
        self.run(image, history, site).crash(fate)
    }

    fn start(&self, image: &Image) -> Result<Machine, String> {
        Machine::start(image, self.setup)
    }

    /// Returns how many sites the script has on a fresh region, unless somebody is told a lie.
    fn sites(&self) -> Result<u64, String> {
        let mut machine = self.start(&Image::fresh(self.setup.hardware))?;
        let mut history = History::default();
        history.check(&mut machine)?;
        let before = machine.power.sites();
        history.run(self.script, &mut machine);
        let sites = machine.power.sites() - before;
        history.check(&mut machine)?;
        Ok(sites)
    }

    /// Crashes recovery at `site`; returns what is left then, or `None` if it has fewer sites.
    fn crash_recovery(&self, image: &Image, site: u64, fate: Fate) -> Option<Image> {
        Machine::crash_in_start(image, self.setup, site, fate)
    }

    /// Compares what is found in `image` with what clients were told. No rule but that of the start
    /// is broken while it looks.
    fn check(&self, image: &Image, history: &mut History) -> Result<(), String> {
        let keeps_epoch = self.setup.canary == Canary::KeepEpoch;
        let canary = if keeps_epoch { Canary::KeepEpoch } else { Canary::None };
        let setup = Setup { canary, ..self.setup };
        let mut machine = Machine::start(image, setup)?;
        history.check(&mut machine)?;
        history.append_to_all(&mut machine)?;
        machine.power.cut_at(machine.power.sites());
        machine.pass_a_site();
        let again = machine.crash(Fate::Nothing).expect("the power was cut");
        let mut machine = Machine::start(&again, setup)?;
        history.check(&mut machine)
    }

    /// Crashes at every site of the script, in every one of the fates; returns the first lie.
    fn exhaust(&self, fates: impl Fn(u64) -> Vec<Fate>) -> Result<u64, String> {
        let Setup { hardware, workers, seed, .. } = self.setup;
        let sites = self.sites()?;
        let fresh = Image::fresh(hardware);
        let mut trials = 0;
        for site in 0..sites {
            let mut history = History::default();
            let machine = self.run(&fresh, &mut history, site);
            for fate in fates(site) {
                let found = machine.crash(fate).expect("the site was counted");
                let told = |lie| {
                    format!(
                        "{hardware:?}, {workers} workers, seed {seed}, site {site}, {fate:?}: {lie}"
                    )
                };
                self.check(&found, &mut history.clone()).map_err(told)?;
                trials += 1;
            }
        }
        Ok(trials)
    }
}

fn fates(seed: u64) -> [Fate; 4] {
    [Fate::Nothing, Fate::Everything, Fate::Seeded(seed), Fate::Seeded(seed ^ 0x5555)]
}

const fn honest(hardware: Hardware, workers: usize, seed: u64) -> Setup {
    Setup { hardware, canary: Canary::None, workers, seed }
}

/// Returns how many workers serve the history of this seed.
const fn workers(seed: u64) -> usize {
    if seed.is_multiple_of(3) { 1 } else { 2 }
}

/// Without any one of the rules D1 to D8 some crash loses, tears, repeats or resurrects something.
#[test]
fn a_crash_at_every_site_loses_nothing_that_was_acknowledged() {
    for (hardware, workers) in HARDWARE.into_iter().flat_map(|it| [(it, 1), (it, 2)]) {
        let setup = honest(hardware, workers, 1);
        let length = if workers == 1 { 8 } else { 14 };
        let script = Script::random(&mut Rng::new(setup.seed), length);
        let trial = Trial { setup, script: &script };
        let trials = trial.exhaust(|site| fates(31 + site).to_vec());
        let trials = trials.unwrap_or_else(|lie| panic!("{lie}"));
        println!("{hardware:?}, {workers} workers: {trials} crashes");
        assert!(trials > 40, "a workload has sites");
    }
}

/// D6: recovery writes, too; a crash in it must not matter.
#[test]
fn a_crash_at_every_site_of_recovery_changes_nothing() {
    for hardware in HARDWARE {
        let script = Script::random(&mut Rng::new(5), 10);
        let trial = Trial { setup: honest(hardware, 2, 5), script: &script };
        let fresh = Image::fresh(hardware);
        let sites = trial.sites().expect("nobody is told a lie");
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
fn two_lives(setup: Setup) -> Result<(), String> {
    let Setup { hardware, seed, .. } = setup;
    let mut rng = Rng::new(seed);
    let mut history = History::default();
    let mut image = Image::fresh(hardware);
    for life in 0..2 {
        let length = 4 + rng.index(16);
        let script = Script::random(&mut rng, length);
        let trial = Trial { setup, script: &script };
        let mut site = rng.below(60);
        let fate = fates(rng.below(u64::MAX))[rng.index(4)];
        if life > 0 {
            // Its lies are this function's result, not the next life's panic.
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
    Trial { setup, script: &Script::default() }.check(&image, &mut history)
}

/// Many lives of one region, each ended by a crash, while its log goes round.
fn round(setup: Setup, lives: usize) -> Result<(), String> {
    let Setup { hardware, seed, .. } = setup;
    let mut rng = Rng::new(seed);
    let mut history = History::default();
    let mut image = Image::fresh(hardware);
    for _ in 0..lives {
        let length = 30 + rng.index(50);
        let script = Script::round(&mut rng, length);
        let trial = Trial { setup, script: &script };
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
    Trial { setup, script: &Script::default() }.check(&image, &mut history)
}

/// D4: segments and buffers that are used again before what freed them is durable, or whose old
/// bytes recovery still looks at, cost acknowledged records. Short workloads never use any again.
#[test]
fn crashes_while_the_log_goes_round_lose_nothing() {
    let (first, count) = random_histories();
    for seed in first..first + count.div_ceil(10) {
        for hardware in HARDWARE {
            let told = round(honest(hardware, workers(seed), seed), 8);
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
            let told = two_lives(honest(hardware, workers(seed), seed));
            assert_eq!(told, Ok(()), "{hardware:?}, IMPASTO_SEED={seed}");
        }
    }
}

/// Returns the first lie of a server with a broken rule, and says it.
fn catch(hardware: Hardware, canary: Canary) -> Option<String> {
    let setup = |seed| Setup { hardware, canary, workers: workers(seed), seed };
    let lie = (1..40).find_map(|seed| {
        let script = Script::random(&mut Rng::new(seed), 8);
        let trial = Trial { setup: setup(seed), script: &script };
        trial.exhaust(|site| vec![Fate::Nothing, Fate::Seeded(seed * 31 + site)]).err()
    });
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
    let script = Script::equal_appends(6);
    let setup = |seed| Setup { hardware: FUA, canary: Canary::IgnoreHoles, workers: 2, seed };
    let trial = |seed| Trial { setup: setup(seed), script: &script };
    let lie = (1..40).find_map(|seed| trial(seed).exhaust(|_| vec![Fate::Nothing]).err());
    println!("{:?}: {lie:?}", Canary::IgnoreHoles);
    assert!(lie.is_some());
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
        let setup = Setup { hardware: FUA, canary, workers: 1, seed };
        let trial = Trial { setup, script: &script };
        let site = 2 + seed % (trial.sites()? - 2);
        let found = trial.crash(&fresh, &mut history, site, Fate::Seeded(seed));
        let script = Script::equal_appends(1);
        let trial = Trial { setup, script: &script };
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

/// D3: whoever waits for what another worker brings about is woken, or waits for ever.
#[test]
fn a_dropped_wake_is_caught() {
    let lie = (1..40).find_map(|seed| {
        let script = Script::random(&mut Rng::new(seed), 14);
        let setup = Setup { canary: Canary::DropWakes, ..honest(FLUSH, 2, seed) };
        Trial { setup, script: &script }.sites().err()
    });
    println!("{:?}: {lie:?}", Canary::DropWakes);
    assert!(lie.is_some_and(|lie| lie.contains("waits for ever")));
}

/// D1 on memory: a fence waits for the flushes of its own CPU.
#[test]
fn a_fence_of_another_worker_is_caught() {
    assert!(catch(Hardware::Pmem, Canary::FenceElsewhere).is_some());
}

/// Returns what becomes of the lines that were not fenced, once in each way of a few, or of many.
fn evictions(site: u64) -> Vec<Fate> {
    let count = random_histories().1.div_ceil(60);
    let seeded = (0..count).map(|seed| Fate::Seeded(site * 31 + seed));
    [Fate::Nothing, Fate::Everything].into_iter().chain(seeded).collect()
}

/// D4 on memory: bytes that are kept where they landed share a buffer with others, which are held,
/// kept, or dead. A buffer that is landed in too early costs what stands in it.
#[test]
fn a_crash_at_every_site_of_a_buffers_life_loses_nothing() {
    let script = Script::of_a_buffer();
    for workers in [1, 2] {
        let trial = Trial { setup: honest(Hardware::Pmem, workers, 1), script: &script };
        let trials = trial.exhaust(evictions).unwrap_or_else(|lie| panic!("{lie}"));
        println!("{workers} workers: {trials} crashes");
        let machine = trial.run(&Image::fresh(Hardware::Pmem), &mut History::default(), u64::MAX);
        let kept = machine.kept();
        let overlap = |(index, extent): (usize, &Extent)| {
            kept[..index].iter().any(|before| before.span().overlaps(extent.span()))
        };
        assert!(
            kept.iter().enumerate().any(overlap),
            "{workers} workers keep bytes again: {kept:?}"
        );
    }
}

/// D4: the trim is reported before it is durable, to the store alone: the client that asked for it
/// is not told. So nobody was told a lie, but what frees buffers believes one.
#[test]
fn a_buffer_freed_before_its_trim_is_durable_is_caught() {
    let script = Script { deaf: Some(1), ..Script::of_a_buffer() };
    // One, whose port goes through all the buffers that the script fills.
    let setup = honest(Hardware::Pmem, 1, 1);
    let broken = Trial { setup: Setup { canary: Canary::TrimEarly, ..setup }, script: &script };
    let some = |site| [0, 1].map(|seed| Fate::Seeded(site * 31 + seed)).to_vec();
    let lie = broken.exhaust(some).expect_err("a record names the bytes of another");
    println!("{:?}: {lie}", Canary::TrimEarly);
    assert!(lie.contains("is answered 500"), "{lie}");
}

/// A medium that is done at once ends no wait: a stop that waited for its last superblock would not
/// end.
#[test]
fn a_clean_stop_on_memory_waits_for_nothing() {
    let fresh = Image::fresh(Hardware::Pmem);
    let mut machine = Machine::start(&fresh, honest(Hardware::Pmem, 1, 1)).unwrap();
    machine.stop();
}
