//! What a load consists of.

use std::{net::SocketAddr, sync::Arc};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rand_distr::{Distribution, Uniform, Zipf};

use crate::protocol::{
    Ask, Request, Speaker, Values, beanstalk::Beanstalk, etcd::Etcd, http::Constant,
    memcache::Memcache, postgres::Postgres, records::Records, resp::Resp,
};

/// What is sent.
#[derive(Clone, Debug)]
pub enum Work {
    /// One constant request, over and over.
    Same(Request),
    /// Reads and writes of the values of many keys.
    Keyed(Keyed),
}

/// Reads and writes over keys; what is read has to be the value of its key.
#[derive(Clone, Debug)]
pub struct Keyed {
    /// How they are said.
    pub dialect: Dialect,
    /// The values.
    pub values: Values,
    /// How many keys there are.
    pub keys: u64,
    /// Which share of the requests reads: from 0 to 1.
    pub reads: f64,
    /// Which key is next.
    pub order: Order,
    /// The same requests come again with the same seed.
    pub seed: u64,
}

/// Which key is next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// One after the other: what every key is written with at first.
    InTurn {
        /// The first one.
        from: u64,
        /// How far it is from one to the next.
        step: u64,
    },
    /// Each is as likely.
    Uniform,
    /// The `n`-th most popular is as likely as 1 / `n` to the power of this exponent. YCSB's is
    /// 0.99, after Gray et al. (SIGMOD 1994). Popular keys are spread over all of them.
    Zipf(f64),
}

/// How reads and writes are said.
#[derive(Clone, Debug)]
pub enum Dialect {
    /// HTTP: writes are POST to a log of Impasto, reads GET its records.
    Records {
        /// The log's path.
        log: Arc<str>,
        /// The number of the record of the first key.
        first: u64,
    },
    /// RESP, as Redis and Valkey speak it: SET and GET.
    Resp {
        /// What AUTH is given, a name and a password, if it is needed.
        auth: Option<Arc<[String]>>,
    },
    /// memcached's text: set and get.
    Memcache,
    /// beanstalkd: writes put jobs, reads delete those that the same connection has put.
    Beanstalk,
    /// Postgres: a prepared upsert, and a prepared select.
    Postgres {
        /// Somebody whom it trusts.
        user: Arc<str>,
        /// Where the table is.
        database: Arc<str>,
        /// Whether the table is made first.
        creates: bool,
    },
    /// etcd over HTTP and JSON: put and range.
    Etcd,
}

impl Work {
    /// Returns the speaker of a new connection.
    pub(crate) fn speaker(&self, target: SocketAddr) -> Box<dyn Speaker> {
        match self {
            Self::Same(request) => Box::new(Constant::new(request)),
            Self::Keyed(keyed) => {
                let values = keyed.values.clone();
                match &keyed.dialect {
                    Dialect::Records { log, first } => {
                        Box::new(Records::new(target, log, *first, values))
                    }
                    Dialect::Resp { auth } => Box::new(Resp::new(auth.clone(), values)),
                    Dialect::Memcache => Box::new(Memcache::new(values)),
                    Dialect::Beanstalk => Box::new(Beanstalk::new(values)),
                    Dialect::Postgres { user, database, creates } => {
                        Box::new(Postgres::new(user, database, *creates, values))
                    }
                    Dialect::Etcd => Box::new(Etcd::new(target, values)),
                }
            }
        }
    }

    /// Returns the part of thread `index` of `threads`.
    pub(super) fn share(&self, threads: usize, index: usize) -> Self {
        let mut share = self.clone();
        if let Self::Keyed(keyed) = &mut share {
            keyed.seed = keyed.seed.wrapping_add(index as u64);
            if let Order::InTurn { from, step } = &mut keyed.order {
                *from += *step * index as u64;
                *step *= threads as u64;
            }
        }
        share
    }
}

/// Says what is asked for next.
#[derive(Debug)]
pub(super) struct Source(Option<Mix>);

#[derive(Debug)]
struct Mix {
    random: SmallRng,
    reads: f64,
    keys: u64,
    next: Next,
}

#[derive(Debug)]
enum Next {
    InTurn { at: u64, step: u64 },
    Uniform(Uniform<u64>),
    Zipf(Zipf<f64>),
}

impl Source {
    pub(super) fn new(work: &Work) -> Self {
        let Work::Keyed(keyed) = work else { return Self(None) };
        let keys = keyed.keys.max(1);
        let next = match keyed.order {
            Order::InTurn { from, step } => Next::InTurn { at: from, step },
            Order::Uniform => Next::Uniform(Uniform::new(0, keys).expect("there is a key")),
            Order::Zipf(exponent) => {
                let zipf = Zipf::new(keys as f64, exponent.max(0.0));
                Next::Zipf(zipf.expect("there is a key, and the exponent is not negative"))
            }
        };
        let random = SmallRng::seed_from_u64(keyed.seed);
        Self(Some(Mix { random, reads: keyed.reads, keys, next }))
    }

    pub(super) fn next(&mut self) -> Ask {
        let Some(mix) = &mut self.0 else { return Ask::Same };
        let key = match &mut mix.next {
            Next::InTurn { at, step } => {
                let key = *at % mix.keys;
                *at += *step;
                key
            }
            Next::Uniform(uniform) => uniform.sample(&mut mix.random),
            Next::Zipf(zipf) => spread(rank(zipf.sample(&mut mix.random)), mix.keys),
        };
        if mix.reads > 0.0 && mix.random.random::<f64>() < mix.reads {
            Ask::Read(key)
        } else {
            Ask::Write(key)
        }
    }
}

/// Returns the rank that a sample of a Zipf distribution stands for, from 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "samples are whole numbers from 1 to the number of keys"
)]
fn rank(sample: f64) -> u64 {
    (sample as u64).saturating_sub(1)
}

/// Spreads ranks over the keys, each to another one: keys next to each other would share pages.
fn spread(rank: u64, keys: u64) -> u64 {
    // A prime that no number of keys below it has as a factor.
    const PRIME: u128 = 0xffff_ffff_ffff_ffc5;
    let place = u128::from(rank) * PRIME % u128::from(keys);
    u64::try_from(place).expect("it is below the number of keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(keys: u64, reads: f64, order: Order) -> Work {
        let dialect = Dialect::Resp { auth: None };
        Work::Keyed(Keyed { dialect, values: Values::new(10), keys, reads, order, seed: 7 })
    }

    fn counts(order: Order) -> Vec<u32> {
        let mut source = Source::new(&keyed(1000, 0.0, order));
        let mut counts = vec![0; 1000];
        for _ in 0..100_000 {
            let Ask::Write(key) = source.next() else { panic!("a read") };
            counts[usize::try_from(key).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn uniform_keys_are_all_as_likely() {
        assert!(counts(Order::Uniform).iter().all(|count| (50..160).contains(count)));
    }

    /// Of 1,000 keys with exponent 0.99, the first takes 1 / H = 13 % and the second half of that.
    #[test]
    fn zipf_keys_have_their_popularity_and_their_own_places() {
        let mut found = counts(Order::Zipf(0.99));
        let hottest = found.iter().position(|count| *count > 10_000).unwrap();
        assert_eq!(hottest as u64, spread(0, 1000));
        found.sort_unstable_by(|a, b| b.cmp(a));
        assert!((12_000..14_500).contains(&found[0]), "{found:?}");
        assert!((5_800..7_600).contains(&found[1]), "{found:?}");
        let mut places: Vec<u64> = (0..1000).map(|rank| spread(rank, 1000)).collect();
        places.sort_unstable();
        assert!(places.into_iter().eq(0..1000));
    }

    /// Pearson's test against 1 / rank^s over all keys: an approximation of the distribution, or
    /// ranks that share a place, would be another load than the one that YCSB's users know.
    #[test]
    fn frequencies_are_those_of_theory() {
        const SAMPLES: u32 = 100_000;
        let orders = [0.0, 0.5, 0.99, 1.0, 1.2].map(|exponent| (Order::Zipf(exponent), exponent));
        for (order, exponent) in orders.into_iter().chain([(Order::Uniform, 0.0)]) {
            let found = counts(order);
            let weight = |rank: u32| f64::from(rank + 1).powf(-exponent);
            let all: f64 = (0..1000).map(weight).sum();
            let chi_squared: f64 = (0..1000)
                .map(|rank| {
                    let wanted = f64::from(SAMPLES) * weight(rank) / all;
                    let place = usize::try_from(spread(rank.into(), 1000)).unwrap();
                    (f64::from(found[place]) - wanted).powi(2) / wanted
                })
                .sum();
            // 999 degrees of freedom: mean 999, standard deviation 45.
            assert!((775.0..1225.0).contains(&chi_squared), "{order:?}: {chi_squared}");
        }
    }

    #[test]
    fn a_mix_has_its_share_of_reads_and_comes_again_with_its_seed() {
        let asks = |work: &Work| {
            let mut source = Source::new(work);
            (0..10_000).map(|_| source.next()).collect::<Vec<Ask>>()
        };
        let work = keyed(100, 0.9, Order::Uniform);
        let found = asks(&work);
        let reads = found.iter().filter(|ask| matches!(ask, Ask::Read(_))).count();
        assert!((8_850..9_150).contains(&reads), "{reads}");
        assert_eq!(found, asks(&work));
        assert_ne!(found, asks(&work.share(2, 1)));
    }

    /// A key that nobody has written is missing when it is read.
    #[test]
    fn threads_in_turn_cover_every_key_once() {
        let work = keyed(10, 0.0, Order::InTurn { from: 0, step: 1 });
        let mut found = Vec::new();
        for (index, count) in [4, 3, 3].into_iter().enumerate() {
            let mut source = Source::new(&work.share(3, index));
            found.extend((0..count).map(|_| match source.next() {
                Ask::Write(key) => key,
                other => panic!("{other:?}"),
            }));
        }
        found.sort_unstable();
        assert!(found.into_iter().eq(0..10));
    }
}
