//! Tables by which the hash of a request finds an endpoint, and the same one again although others come and go.
//!
//! Both are made once for a list of endpoints. All sidecars make the same ones: they depend on nothing but the
//! addresses and weights.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Places of a Maglev table. Prime, as the permutations need it; a hundred for each of 160 endpoints, so that none of
/// them has 1 % more than its share (section 5.3 of the paper). 32 KiB in each worker for a service that asks for it.
const PLACES: usize = 16_381;

/// Points on the ring of the endpoint with the least weight; as ketama has them.
const POINTS: u64 = 160;

/// Points of a ring at the most: 12 MiB. Beyond it all endpoints have fewer.
const MAX_POINTS: u64 = 1 << 20;

/// An endpoint as tables see it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Tells it from the others, and is the same in all sidecars.
    pub id: u64,
    /// Its share, not zero.
    pub weight: u32,
}

/// From a hash to an endpoint.
#[derive(Debug)]
pub enum Table {
    /// Google's Maglev (NSDI '16): one look, and shares that are as even as can be; when an endpoint goes, a few keys of
    /// others move with its own.
    Maglev(Box<[u16]>),
    /// Ketama's ring: a search, uneven shares, and no key moves that need not.
    Ring(Box<[(u64, u32)]>),
}

impl Table {
    /// A Maglev table of at most 65,535 endpoints; what comes after those has no place in it.
    pub fn maglev(entries: &[Entry]) -> Self {
        let entries = entries.get(..usize::from(u16::MAX)).unwrap_or(entries);
        let mut places = vec![u16::MAX; if entries.is_empty() { 0 } else { PLACES }].into_boxed_slice();
        let most = entries.iter().map(|entry| entry.weight).max().unwrap_or(1).max(1);
        /// Where an endpoint looks for a free place next, and how many it has.
        struct Walk {
            at: usize,
            skip: usize,
            taken: u64,
        }
        let size = PLACES as u64;
        let walk = |entry: &Entry| Walk {
            at: (mix(entry.id) % size) as usize,
            skip: (mix(entry.id ^ SKIP) % (size - 1) + 1) as usize,
            taken: 0,
        };
        let mut walks: Vec<Walk> = entries.iter().map(walk).collect();
        // The heaviest takes a place in each round, the others as often as their weight says. Nobody is looked at in a round in
        // which he takes none: of thousands there may be few who do.
        let round = |entry: &Entry, taken: u64| (taken * u64::from(most)).div_ceil(u64::from(entry.weight.max(1)));
        let mut turns: BinaryHeap<Reverse<(u64, usize)>> =
            entries.iter().enumerate().map(|(i, entry)| Reverse((round(entry, 1), i))).collect();
        for _ in 0..places.len() {
            let Some(mut turn) = turns.peek_mut() else { break };
            let Reverse((_, i)) = *turn;
            let (Some(walk), Some(entry)) = (walks.get_mut(i), entries.get(i)) else { break };
            while let Some(place) = places.get_mut(walk.at) {
                let free = *place == u16::MAX;
                if free {
                    *place = i as u16;
                }
                walk.at = (walk.at + walk.skip) % PLACES;
                if free {
                    break;
                }
            }
            walk.taken += 1;
            *turn = Reverse((round(entry, walk.taken + 1), i));
        }
        Table::Maglev(places)
    }

    /// A ring.
    pub fn ring(entries: &[Entry]) -> Self {
        let least = u64::from(entries.iter().map(|entry| entry.weight).min().unwrap_or(1).max(1));
        let points = |entry: &Entry| POINTS * u64::from(entry.weight.max(1)) / least;
        let total = entries.iter().map(points).sum::<u64>().max(1);
        let mut ring = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            let own = if total > MAX_POINTS { points(entry) * MAX_POINTS / total } else { points(entry) };
            ring.extend((0..own.max(1)).map(|n| (mix(entry.id ^ mix(n + 1)), i as u32)));
        }
        ring.sort_unstable();
        Table::Ring(ring.into_boxed_slice())
    }

    /// The endpoint for a hash.
    pub fn find(&self, hash: u64) -> Option<usize> {
        match self {
            Table::Maglev(places) => {
                let at = usize::try_from(hash % places.len().max(1) as u64).ok()?;
                places.get(at).map(|i| usize::from(*i))
            }
            Table::Ring(points) => {
                let after = points.partition_point(|(point, _)| *point < hash);
                points.get(after).or_else(|| points.first()).map(|(_, i)| *i as usize)
            }
        }
    }
}

const SKIP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash of some bytes: FNV-1a, stirred. Written here and not taken from a library because it may never change: two
/// versions of the sidecar must find the same endpoint.
pub fn of(bytes: impl IntoIterator<Item = u8>) -> u64 {
    mix(bytes
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)))
}

/// Another hash from a hash (the end of MurmurHash3).
pub(super) fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u64 = 20_000;

    fn entries(weights: &[u32]) -> Vec<Entry> {
        let entry = |(i, weight): (usize, &u32)| Entry { id: of(format!("10.0.0.{i}:15006").bytes()), weight: *weight };
        weights.iter().enumerate().map(entry).collect()
    }

    fn kinds() -> [fn(&[Entry]) -> Table; 2] {
        [Table::maglev, Table::ring]
    }

    fn shares(table: &Table, endpoints: usize) -> Vec<f64> {
        let mut counts = vec![0u64; endpoints];
        (0..KEYS).for_each(|key| counts[table.find(mix(key + 1)).expect("an endpoint")] += 1);
        counts.into_iter().map(|count| count as f64 / KEYS as f64).collect()
    }

    #[test]
    fn the_hash_is_the_same_for_ever() {
        assert_eq!(of(*b""), 0xefd0_1f60_ba99_2926);
        assert_eq!(of(*b"user-17"), 0xd89d_f135_9ef4_b32f);
    }

    #[test]
    fn shares_are_weights() {
        let weights = [1, 1, 2, 4, 1, 1];
        for (make, off) in kinds().into_iter().zip([0.06, 0.35]) {
            for (share, weight) in shares(&make(&entries(&weights)), weights.len()).into_iter().zip(weights) {
                let wanted = f64::from(weight) / 10.0;
                assert!((share / wanted - 1.0).abs() < off, "{share} instead of {wanted}");
            }
        }
    }

    /// When one of the endpoints goes, or comes, its own keys move, and few others.
    #[test]
    fn little_moves() {
        let mut chance = fastrand::Rng::with_seed(11);
        for (make, most) in kinds().into_iter().zip([0.06, 0.0]) {
            for count in [3, 7, 10, 40, 100] {
                let all = entries(&vec![1; count]);
                let gone = chance.usize(0..count);
                let mut fewer = all.clone();
                fewer.remove(gone);
                let (before, after) = (make(&all), make(&fewer));
                let id = |table: &Table, entries: &[Entry], key| entries[table.find(key).expect("an endpoint")].id;
                let moved = (0..KEYS).map(|key| mix(key + 1)).filter(|key| {
                    let had = id(&before, &all, *key);
                    had != all[gone].id && had != id(&after, &fewer, *key)
                });
                let share = moved.count() as f64 / KEYS as f64;
                assert!(share <= most, "{share} of the keys of {count} endpoints moved, of others than the one gone");
            }
        }
    }

    #[test]
    fn the_order_of_the_list_hardly_matters() {
        for (make, most) in kinds().into_iter().zip([0.12, 0.0]) {
            let all = entries(&[1; 20]);
            let mut other = all.clone();
            fastrand::Rng::with_seed(5).shuffle(&mut other);
            let (one, two) = (make(&all), make(&other));
            let keys = (0..KEYS).map(|key| mix(key + 1));
            let find = |table: &Table, entries: &[Entry], key| entries[table.find(key).expect("an endpoint")].id;
            let moved = keys.filter(|key| find(&one, &all, *key) != find(&two, &other, *key)).count();
            assert!(moved as f64 <= most * KEYS as f64, "{moved}");
        }
    }

    /// Round by round, as the paper has it. With weights that differ much this takes a second for thousands of endpoints.
    fn round_by_round(entries: &[Entry]) -> Vec<u16> {
        let mut places = vec![u16::MAX; PLACES];
        let most = u64::from(entries.iter().map(|entry| entry.weight).max().expect("one"));
        let mut walks: Vec<_> = entries.iter().map(|entry| (mix(entry.id) as usize % PLACES, 0u64)).collect();
        while places.contains(&u16::MAX) {
            for (i, ((at, credit), entry)) in walks.iter_mut().zip(entries).enumerate() {
                *credit += u64::from(entry.weight);
                if *credit < most || !places.contains(&u16::MAX) {
                    continue;
                }
                *credit -= most;
                let skip = mix(entry.id ^ SKIP) as usize % (PLACES - 1) + 1;
                while places[*at] != u16::MAX {
                    *at = (*at + skip) % PLACES;
                }
                places[*at] = i as u16;
            }
        }
        places
    }

    #[test]
    fn a_table_is_as_if_made_round_by_round() {
        let mut chance = fastrand::Rng::with_seed(29);
        for most in [1, 3, 1000] {
            let weights: Vec<u32> = (0..chance.usize(2..12)).map(|_| chance.u32(1..=most)).collect();
            let all = entries(&weights);
            let Table::Maglev(places) = Table::maglev(&all) else { panic!("a Maglev table") };
            assert!(*places == round_by_round(&all), "{weights:?}");
        }
    }

    #[test]
    fn extremes() {
        for make in kinds() {
            assert_eq!(make(&[]).find(7), None);
            assert_eq!(make(&entries(&[1])).find(u64::MAX), Some(0));
            let table = make(&entries(&[1, 1_000_000, 1_000_000]));
            assert!(shares(&table, 3)[0] < 0.01);
        }
        let Table::Ring(points) = Table::ring(&entries(&[1, 1_000_000, 1_000_000])) else { panic!("a ring") };
        assert!(points.len() as u64 <= MAX_POINTS);
    }
}
