//! How fast QUIC sends: quinn's CUBIC (RFC 9438), except that not every loss is a sign of congestion.
//!
//! CUBIC takes each loss for a queue that is full, and sends less: on a path that loses one packet in a hundred it comes
//! down to some packets per round trip, and then small requests wait for the window, each for the acknowledgement of those
//! before it. Where a queue is full packets wait in it, so the round trip has grown; where it has not, and few are lost, the
//! loss was the path's own.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

/// A round trip of so many times the shortest one means that packets wait in a queue: CUBIC itself fills one to more than
/// that. On near paths a busy receiver looks the same, and losses count: there a window recovers within some round trips
/// anyway.
const QUEUED: f64 = 1.5;

/// The share of bytes lost from which losses are congestion whatever the round trip is, one in so many: a bottleneck with a
/// short queue, or one that drops what is beyond a rate, does not delay.
const MANY: u64 = 20;

/// Bytes after which half of what was lost and acknowledged before is forgotten.
const MEMORY: u64 = 1024 * 1024;

/// Settings of [`Discerning`].
#[derive(Clone, Debug)]
pub(super) struct Discerns(pub(super) Arc<CubicConfig>);

impl ControllerFactory for Discerns {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Discerning { cubic: Cubic::new(Arc::clone(&self.0), now, mtu), path: Path::default() })
    }
}

/// CUBIC that does not hear of losses which say nothing of congestion.
#[derive(Clone, Debug)]
struct Discerning {
    cubic: Cubic,
    path: Path,
}

/// What tells losses apart.
#[derive(Clone, Copy, Debug, Default)]
struct Path {
    /// The shortest round trip, smoothed. quinn's own minimum begins with its initial estimate, which may be too short.
    shortest: Option<Duration>,
    now: Duration,
    acknowledged: u64,
    lost: u64,
}

impl Path {
    fn acknowledge(&mut self, bytes: u64, round_trip: Option<Duration>) {
        if let Some(round_trip) = round_trip {
            self.now = round_trip;
            self.shortest = Some(self.shortest.map_or(round_trip, |shortest| shortest.min(round_trip)));
        }
        self.acknowledged += bytes;
        self.fade();
    }

    /// Whether a loss of so many bytes is a sign of congestion.
    fn lose(&mut self, bytes: u64) -> bool {
        self.lost += bytes;
        let many = self.lost * MANY > self.lost + self.acknowledged;
        let queued = self.shortest.is_none_or(|shortest| self.now > shortest.mul_f64(QUEUED));
        self.fade();
        many || queued
    }

    fn fade(&mut self) {
        if self.lost + self.acknowledged > MEMORY {
            self.lost /= 2;
            self.acknowledged /= 2;
        }
    }
}

impl Controller for Discerning {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        // Before the first measurement all three are the initial estimate. That they are equal later, too, is rare.
        let measured = (rtt.get() != rtt.min() || rtt.get() != rtt.conservative()).then(|| rtt.get());
        self.path.acknowledge(bytes, measured);
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        // No bytes: the network marked packets (ECN), and that is what it means.
        let congested = self.path.lose(lost_bytes);
        if congested || is_persistent || lost_bytes == 0 {
            self.cubic.on_congestion_event(now, sent, is_persistent, lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn path(round_trip: Duration, packets: u64) -> Path {
        let mut path = Path::default();
        (0..packets).for_each(|_| path.acknowledge(1200, Some(round_trip)));
        path
    }

    #[test]
    fn a_loss_without_a_queue_is_the_paths_own() {
        let mut path = path(50 * MS, 100);
        assert!(!path.lose(1200));
        path.acknowledge(1200, Some(75 * MS));
        assert!(!path.lose(1200), "still within a half");
        path.acknowledge(1200, Some(76 * MS));
        assert!(path.lose(1200), "packets wait somewhere");
        path.acknowledge(1200, Some(40 * MS));
        assert!(!path.lose(1200), "a shorter way");
        path.acknowledge(1200, Some(61 * MS));
        assert!(path.lose(1200), "and the measure is the shortest");
    }

    #[test]
    fn many_losses_are_congestion_and_three_in_a_hundred_are_not() {
        for (one_in, congestion) in [(33, false), (15, true)] {
            let mut path = path(50 * MS, 100);
            let mut last = false;
            for n in 1..2000 {
                if n % one_in == 0 {
                    last = path.lose(1200);
                } else {
                    path.acknowledge(1200, Some(50 * MS));
                }
            }
            assert_eq!(last, congestion, "one in {one_in}");
        }
    }

    #[test]
    fn what_was_lost_long_ago_is_forgotten() {
        let mut path = path(50 * MS, 100);
        assert!(path.lose(100 * 1200));
        (0..10 * MEMORY / 1200).for_each(|_| path.acknowledge(1200, Some(50 * MS)));
        assert!(!path.lose(1200));
    }

    #[test]
    fn a_loss_before_any_answer_is_congestion() {
        assert!(Path::default().lose(1200));
    }

    #[test]
    fn the_window_stays_where_a_loss_is_the_paths_own() {
        let now = Instant::now();
        let mut controller =
            Discerning { cubic: Cubic::new(Arc::new(CubicConfig::default()), now, 1200), path: path(50 * MS, 100) };
        let before = controller.window();
        controller.on_congestion_event(now, now, false, 1200);
        assert_eq!(controller.window(), before);
        let mut marked = controller.clone();
        marked.on_congestion_event(now, now, false, 0);
        assert!(marked.window() < before, "ECN");
        controller.on_congestion_event(now, now, true, 1200);
        assert!(controller.window() < before, "nothing came through for long");
    }
}
