//! Whether a request is to meet a fault on purpose. Pure: chance is given.

use std::time::Duration;

use crate::config::fault::{Abort, Faults};
use crate::http::RequestHead;

/// What one request meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// A wait.
    pub delay: Option<Duration>,
    /// An answer, after it.
    pub abort: Option<Abort>,
}

/// What a request is to meet. `chance` gives a number below the one that it is given.
pub fn inject(faults: &Faults, head: &RequestHead, mut chance: impl FnMut(u32) -> u32) -> Injected {
    let Faults { headers, delay, abort } = faults;
    if !super::has_headers(&head.headers, headers) {
        return Injected::default();
    }
    Injected {
        delay: delay.filter(|(_, portion)| portion.meets(&mut chance)).map(|(delay, _)| delay),
        abort: abort.filter(|(_, portion)| portion.meets(&mut chance)).map(|(abort, _)| abort),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::config::fault::Portion;
    use crate::config::matching::TextMatch;

    #[test]
    fn delay_and_abort_are_independent_and_for_those_who_are_meant() {
        let half = Portion { numerator: 1, denominator: 2 };
        let user = HeaderName::from_static("x-user");
        let faults = Faults {
            headers: vec![(user.clone(), TextMatch::Exact("jason".into()))],
            delay: Some((Duration::from_secs(1), half)),
            abort: Some((Abort::Http(503), half)),
        };
        let mut head = RequestHead::unread();
        assert_eq!(inject(&faults, &head, |_| 0), Injected::default(), "without the field");
        head.headers.insert(user, HeaderValue::from_static("jason"));
        let met = |delay: u32, abort: u32| {
            let mut chances = [delay, abort].into_iter();
            let Injected { delay, abort } = inject(&faults, &head, |_| chances.next().unwrap_or(u32::MAX));
            (delay.is_some(), abort.is_some())
        };
        assert_eq!(
            [met(0, 0), met(0, 1), met(1, 0), met(1, 1)],
            [(true, true), (true, false), (false, true), (false, false)]
        );
        let all = Faults { headers: Vec::new(), delay: None, abort: Some((Abort::Grpc(14), Portion::ALL)) };
        let none = |_| panic!("chance is not asked");
        assert_eq!(inject(&all, &head, none), Injected { delay: None, abort: Some(Abort::Grpc(14)) });
    }
}
