//! How requests are shared between levels of endpoints: the first takes what it can, the next takes what is left.
//! Envoy's conventions, so that its documentation holds here, too.

/// A level takes all requests as long as so many percent of what it needs are there: 100 / 1.4 = 72 % of its endpoints
/// (Envoy's `overprovisioning_factor`).
const OVERPROVISIONED: u64 = 140;

/// The endpoints of a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// All of them.
    pub(super) all: u32,
    /// Those that are neither ejected nor unhealthy.
    pub(super) fit: u32,
    /// Those of them that could be reached lately.
    pub(super) usable: u32,
}

/// What a level gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// Percent of the requests.
    pub(super) percent: u32,
    /// Too few are fit: all are used.
    pub(super) panic: bool,
}

/// The shares of levels, the first of which is preferred. With fewer percent of a level's endpoints fit than `panic`,
/// and not enough in the others, all of it are used.
pub(super) fn shares(levels: &[Count], panic: u8) -> Vec<Share> {
    let availability = |level: &Count| match level.all {
        0 => 0,
        all => (OVERPROVISIONED * u64::from(level.usable) / u64::from(all)).min(100),
    };
    let sum = levels.iter().map(availability).sum::<u64>().min(100);
    let panics =
        |level: &Count| panic > 0 && sum < 100 && u64::from(level.fit) * 100 < u64::from(panic) * u64::from(level.all);
    if sum == 0 || levels.iter().filter(|level| level.all > 0).all(panics) {
        return everywhere(levels);
    }
    let mut left = 100;
    let share = |level: &Count| {
        let percent = (availability(level) * 100 / sum).min(left);
        left -= percent;
        Share { percent: percent as u32, panic: panics(level) }
    };
    let mut shares: Vec<Share> = levels.iter().map(share).collect();
    if let Some(first) = shares.iter_mut().find(|share| share.percent > 0) {
        first.percent += left as u32;
    }
    shares
}

/// Nothing is known to be well: all are asked, each as often as the others.
fn everywhere(levels: &[Count]) -> Vec<Share> {
    let total = levels.iter().map(|level| u64::from(level.all)).sum::<u64>().max(1);
    let mut left = 100;
    let share = |level: &Count| {
        let percent = u64::from(level.all) * 100 / total;
        left -= percent;
        Share { percent: percent as u32, panic: true }
    };
    let mut shares: Vec<Share> = levels.iter().map(share).collect();
    if let Some((first, _)) = shares.iter_mut().zip(levels).find(|(_, level)| level.all > 0) {
        first.percent += left as u32;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(percents: &[u32], panic: u8) -> Vec<(u32, bool)> {
        let levels: Vec<Count> = percents.iter().map(|n| Count { all: 100, fit: *n, usable: *n }).collect();
        shares(&levels, panic).into_iter().map(|share| (share.percent, share.panic)).collect()
    }

    fn percents(healthy: &[u32]) -> Vec<u32> {
        of(healthy, 0).into_iter().map(|(percent, _)| percent).collect()
    }

    /// The tables of Envoy's documentation, "Priority levels".
    #[test]
    fn as_envoy_does_it() {
        for (healthy, wanted) in [
            ([100, 100], [100, 0]),
            ([72, 100], [100, 0]),
            ([71, 100], [99, 1]),
            ([50, 100], [70, 30]),
            ([25, 100], [35, 65]),
            ([0, 100], [0, 100]),
            ([25, 25], [50, 50]),
            ([25, 20], [56, 44]),
        ] {
            assert_eq!(percents(&healthy), wanted, "{healthy:?}");
        }
        for (healthy, wanted) in [
            ([100, 100, 100], [100, 0, 0]),
            ([72, 72, 100], [100, 0, 0]),
            ([71, 71, 100], [99, 1, 0]),
            ([50, 60, 100], [70, 30, 0]),
            ([50, 25, 100], [70, 30, 0]),
            ([25, 25, 100], [35, 35, 30]),
            ([25, 25, 20], [36, 36, 28]),
        ] {
            let got = percents(&healthy);
            assert!(got.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) <= 1), "{healthy:?}: {got:?}");
            assert_eq!(got.iter().sum::<u32>(), 100);
        }
    }

    #[test]
    fn panic_is_for_levels_that_nobody_helps() {
        assert_eq!(of(&[50], 50), [(100, false)], "half are enough");
        assert_eq!(of(&[49], 50), [(100, true)]);
        assert_eq!(of(&[49], 0), [(100, false)], "switched off");
        assert_eq!(of(&[10, 100], 50), [(14, false), (86, false)], "the second has enough for all");
        assert_eq!(of(&[60, 5], 50), [(93, false), (7, true)]);
        assert_eq!(of(&[30, 10], 50), [(50, true), (50, true)], "Envoy's \"total panic\": by their number");
        assert_eq!(of(&[0, 0], 0), [(50, true), (50, true)], "a guess beats a refusal");
        assert_eq!(shares(&[], 50), []);
    }

    #[test]
    fn those_that_cannot_be_reached_make_no_panic() {
        let level = Count { all: 3, fit: 3, usable: 1 };
        assert_eq!(shares(&[level], 50), [Share { percent: 100, panic: false }]);
        let gone = Count { all: 3, fit: 3, usable: 0 };
        let other = Count { all: 2, fit: 2, usable: 2 };
        assert_eq!(shares(&[gone, other], 50).iter().map(|s| s.percent).collect::<Vec<_>>(), [0, 100]);
    }
}
