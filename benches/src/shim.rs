//! What a network between two machines does to packets: delay, jitter, a bottleneck with its queue, loss, reordering.
//! Pure: time comes in as an argument and chance from a seed, so the n-th packet meets the same luck in every run.

use crate::random::Random;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Longer delays and queues than any network has.
const LONGEST: f64 = 60_000.0;

/// What one direction of a link is like. Both have the same conditions, and luck of their own.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Conditions {
    /// From one end to the other, in milliseconds: half of the round trip.
    #[serde(default)]
    pub delay_ms: f64,
    /// Up to so much more, evenly, in milliseconds. It delays packets and never makes one overtake another.
    #[serde(default)]
    pub jitter_ms: f64,
    /// What the bottleneck lets through, in megabits per second of IP packets. Absent: there is none.
    #[serde(default)]
    pub rate_mbit: Option<f64>,
    /// How long a packet may wait before the bottleneck, in milliseconds: one that would wait longer is dropped (drop-tail).
    #[serde(default = "queue")]
    pub queue_ms: f64,
    /// Which packets are lost on the way, behind the bottleneck.
    #[serde(default)]
    pub loss: Loss,
    /// The part of packets that take only half of the delay, and so overtake others.
    #[serde(default)]
    pub reorder: f64,
    /// What both directions' luck is made from.
    #[serde(default)]
    pub seed: u64,
}

/// A common size of routers' queues.
fn queue() -> f64 {
    100.0
}

/// Which packets are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Loss {
    /// None.
    #[default]
    None,
    /// Each by itself, with this probability (Bernoulli).
    Each(f64),
    /// Gilbert and Elliott's two states, with a change possible before each packet.
    Bursts {
        /// The probability of going from the good state, in which nothing is lost, to the bad one.
        begin: f64,
        /// That of going back: bursts have 1 / `end` packets on average.
        end: f64,
        /// The part of packets that the bad state loses.
        lost: f64,
    },
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives then.
    Arrives(Duration),
    /// It is lost on the way.
    Lost,
    /// The queue before the bottleneck is full.
    Overflows,
}

/// What became of the packets of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// That were sent into it.
    pub packets: u64,
    /// Bytes in them, IP headers included.
    pub bytes: u64,
    /// Lost on the way.
    pub lost: u64,
    /// Dropped before the bottleneck.
    pub overflowed: u64,
    /// That took a short cut.
    pub reordered: u64,
}

/// One direction of a link.
#[derive(Clone, Debug)]
pub struct Direction {
    conditions: Conditions,
    random: Random,
    /// In the bad state of [`Loss::Bursts`].
    bad: bool,
    /// When the bottleneck has let everything through that came so far.
    free: Duration,
    /// When the last packet arrives that took the usual way.
    last: Duration,
    counts: Counts,
}

impl Default for Conditions {
    /// A link that does nothing to packets.
    fn default() -> Self {
        Self {
            delay_ms: 0.0,
            jitter_ms: 0.0,
            rate_mbit: None,
            queue_ms: queue(),
            loss: Loss::None,
            reorder: 0.0,
            seed: 0,
        }
    }
}

impl Conditions {
    /// Whether there can be such a link.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        let (part, time) = (0.0..=1.0, 0.0..=LONGEST);
        let parts = match self.loss {
            Loss::None => [0.0; 3],
            Loss::Each(lost) => [lost, 0.0, 0.0],
            Loss::Bursts { begin, end, lost } => [begin, end, lost],
        };
        if !parts.iter().chain([&self.reorder]).all(|value| part.contains(value)) {
            return Err("probabilities are from 0 to 1");
        }
        if ![self.delay_ms, self.jitter_ms, self.queue_ms].iter().all(|value| time.contains(value)) {
            return Err("times are from 0 to 60,000 ms");
        }
        if self.rate_mbit.is_some_and(|rate| !(1e-3..=1e6).contains(&rate)) {
            return Err("`rate_mbit` is from 0.001 to 1,000,000");
        }
        Ok(())
    }
}

impl Direction {
    /// The direction number `index` of a link under these conditions.
    pub fn new(conditions: Conditions, index: u64) -> Self {
        // The first number of a seed, so that neighbouring seeds and directions have nothing in common.
        let seed = Random::new(conditions.seed.wrapping_mul(2).wrapping_add(index)).bits();
        Self {
            conditions,
            random: Random::new(seed),
            bad: false,
            free: Duration::ZERO,
            last: Duration::ZERO,
            counts: Counts::default(),
        }
    }

    /// A packet of so many bytes is sent now. `now` never goes back.
    pub fn send(&mut self, now: Duration, bytes: usize) -> Fate {
        self.counts.packets += 1;
        self.counts.bytes += bytes as u64;
        // Always the same number of draws: a packet's luck depends on nothing but its number.
        let [change, lost, jitter, short] = [(); 4].map(|()| self.random.unit());
        let lost = self.loses(change, lost);
        let Conditions { delay_ms, jitter_ms, rate_mbit, queue_ms, reorder, .. } = self.conditions;
        let milliseconds = |value: f64| Duration::from_secs_f64(value / 1000.0);
        let start = self.free.max(now);
        if let Some(rate) = rate_mbit {
            if start - now > milliseconds(queue_ms) {
                self.counts.overflowed += 1;
                return Fate::Overflows;
            }
            self.free = start + Duration::from_secs_f64(bytes as f64 * 8.0 / (rate * 1e6));
        }
        if lost {
            self.counts.lost += 1;
            return Fate::Lost;
        }
        let leaves = self.free.max(now);
        if short < reorder {
            self.counts.reordered += 1;
            return Fate::Arrives(leaves + milliseconds(delay_ms / 2.0));
        }
        self.last = self.last.max(leaves + milliseconds(delay_ms + jitter_ms * jitter));
        Fate::Arrives(self.last)
    }

    /// What became of all that was sent.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn loses(&mut self, change: f64, draw: f64) -> bool {
        match self.conditions.loss {
            Loss::None => false,
            Loss::Each(lost) => draw < lost,
            Loss::Bursts { begin, end, lost } => {
                self.bad = if self.bad { change >= end } else { change < begin };
                self.bad && draw < lost
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: Conditions = Conditions {
        delay_ms: 25.0,
        jitter_ms: 0.0,
        rate_mbit: None,
        queue_ms: 100.0,
        loss: Loss::None,
        reorder: 0.0,
        seed: 7,
    };

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    /// The fates of packets that are sent a millisecond apart.
    fn fates(conditions: Conditions, index: u64, count: u64) -> Vec<Fate> {
        let mut direction = Direction::new(conditions, index);
        (0..count).map(|n| direction.send(ms(n), 1500)).collect()
    }

    fn is_lost(fate: &Fate) -> bool {
        *fate == Fate::Lost
    }

    #[test]
    fn delays_each_packet_alike() {
        assert_eq!(fates(CLEAN, 0, 3), [25, 26, 27].map(|at| Fate::Arrives(ms(at))));
    }

    #[test]
    fn jitter_delays_and_keeps_the_order() {
        let fates = fates(Conditions { jitter_ms: 10.0, ..CLEAN }, 0, 10_000);
        let mut before = Duration::ZERO;
        let mut late = Duration::ZERO;
        for (sent, fate) in (0..).map(ms).zip(fates) {
            let Fate::Arrives(at) = fate else { panic!("{fate:?}") };
            assert!(at >= before && at >= sent + ms(25) && at <= sent + ms(35), "{sent:?} {at:?}");
            (before, late) = (at, late.max(at - sent));
        }
        assert!(late > ms(34), "{late:?}");
    }

    #[test]
    fn the_bottleneck_takes_its_time_and_drops_what_would_wait_too_long() {
        // 12 Mbit/s: a packet of 1500 bytes each millisecond.
        let conditions = Conditions { rate_mbit: Some(12.0), queue_ms: 3.0, ..CLEAN };
        let mut direction = Direction::new(conditions, 0);
        let burst: Vec<_> = (0..6).map(|_| direction.send(ms(0), 1500)).collect();
        let expected = [26, 27, 28, 29].map(|at| Fate::Arrives(ms(at)));
        assert_eq!(burst[..4], expected);
        assert_eq!(burst[4..], [Fate::Overflows; 2], "the fifth would wait 4 ms");
        assert_eq!(direction.send(ms(1), 1500), Fate::Arrives(ms(30)), "there is room again");
        assert_eq!(direction.counts().overflowed, 2);
    }

    #[test]
    fn loses_as_many_as_it_says_and_the_same_ones_for_a_seed() {
        for (loss, part) in [(Loss::Each(0.01), 0.01), (Loss::Bursts { begin: 0.0025, end: 0.25, lost: 1.0 }, 0.0099)] {
            let conditions = Conditions { loss, ..CLEAN };
            let one = fates(conditions, 0, 200_000);
            let lost = one.iter().filter(|fate| is_lost(fate)).count() as f64 / 200_000.0;
            assert!((lost / part - 1.0).abs() < 0.1, "{loss:?}: {lost}");
            assert_eq!(one, fates(conditions, 0, 200_000), "the same again");
            assert_ne!(one, fates(conditions, 1, 200_000), "the other direction");
            assert_ne!(one, fates(Conditions { seed: 8, ..conditions }, 0, 200_000), "another seed");
            // The pattern is the packets' and not the time's: both arms of a comparison meet it.
            let mut faster = Direction::new(conditions, 0);
            assert!(one.iter().all(|fate| is_lost(fate) == is_lost(&faster.send(Duration::ZERO, 40))));
        }
    }

    #[test]
    fn loses_in_bursts_of_the_length_it_says() {
        let fates =
            fates(Conditions { loss: Loss::Bursts { begin: 0.0025, end: 0.25, lost: 1.0 }, ..CLEAN }, 0, 400_000);
        let bursts: Vec<_> = fates.chunk_by(|a, b| is_lost(a) == is_lost(b)).filter(|run| is_lost(&run[0])).collect();
        let mean = bursts.iter().map(|burst| burst.len()).sum::<usize>() as f64 / bursts.len() as f64;
        assert!((3.6..4.4).contains(&mean), "{mean}");
    }

    #[test]
    fn some_packets_overtake() {
        let fates = fates(Conditions { reorder: 0.1, ..CLEAN }, 0, 1000);
        let early =
            fates.windows(2).filter(|pair| matches!(pair, [Fate::Arrives(a), Fate::Arrives(b)] if b < a)).count();
        assert!((60..140).contains(&early), "{early}");
    }

    #[test]
    fn refuses_what_cannot_be() {
        assert_eq!(CLEAN.check(), Ok(()));
        for wrong in [
            Conditions { loss: Loss::Each(1.01), ..CLEAN },
            Conditions { loss: Loss::Bursts { begin: -0.1, end: 0.1, lost: 1.0 }, ..CLEAN },
            Conditions { reorder: f64::NAN, ..CLEAN },
            Conditions { delay_ms: LONGEST + 1.0, ..CLEAN },
            Conditions { jitter_ms: -1.0, ..CLEAN },
            Conditions { rate_mbit: Some(0.0), ..CLEAN },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
