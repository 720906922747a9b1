//! When a rule holds.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, Weekday};

const DAY: u32 = 24 * 60;

/// A time as it is configured; all that it says must hold. Everything is in UTC.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// From this moment on, as `2026-12-01T08:00:00Z`.
    from: Option<String>,
    /// Before this moment.
    until: Option<String>,
    /// Each day between two times, as `[22:00, "06:00"]`: the first included, over midnight if it is the later one.
    daily: Option<[String; 2]>,
    /// On these days only.
    #[serde(default)]
    days: Vec<Day>,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(not(target_family = "wasm"), derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// A time.
#[derive(Debug)]
pub(crate) struct Window {
    from: Option<SystemTime>,
    until: Option<SystemTime>,
    /// Minutes since midnight.
    daily: Option<(u32, u32)>,
    days: Vec<Weekday>,
}

impl Window {
    pub(crate) fn new(entry: Entry) -> Result<Self, String> {
        let Entry { from, until, daily, days } = entry;
        let moment = |text: Option<String>| text.map(|text| moment(&text)).transpose();
        let (from, until) = (moment(from)?, moment(until)?);
        if from.zip(until).is_some_and(|(from, until)| from >= until) {
            return Err("`until` must be later than `from`".to_owned());
        }
        let daily = match daily {
            Some([start, end]) => Some((minute(&start)?, minute(&end)?)),
            None => None,
        };
        if daily.is_some_and(|(start, end)| start == end) {
            return Err("the times of `daily` are the same; leave it out for the whole day".to_owned());
        }
        if from.is_none() && until.is_none() && daily.is_none() && days.is_empty() {
            return Err("it needs one of `from`, `until`, `daily` and `days`".to_owned());
        }
        let days = days.into_iter().map(|day| match day {
            Day::Mon => Weekday::Monday,
            Day::Tue => Weekday::Tuesday,
            Day::Wed => Weekday::Wednesday,
            Day::Thu => Weekday::Thursday,
            Day::Fri => Weekday::Friday,
            Day::Sat => Weekday::Saturday,
            Day::Sun => Weekday::Sunday,
        });
        Ok(Self { from, until, daily, days: days.collect() })
    }

    /// Whether a moment is in it. What is over midnight belongs to the day on which it began.
    pub(crate) fn contains(&self, now: SystemTime) -> bool {
        if self.from.is_some_and(|from| now < from) || self.until.is_some_and(|until| now >= until) {
            return false;
        }
        let mut day = now;
        if let Some((start, end)) = self.daily {
            let minute = minutes_today(now);
            let inside = if start < end { (start..end).contains(&minute) } else { minute >= start || minute < end };
            if !inside {
                return false;
            }
            if minute < start {
                day = now.checked_sub(Duration::from_secs(u64::from(DAY) * 60)).unwrap_or(now);
            }
        }
        self.days.is_empty() || self.days.contains(&OffsetDateTime::from(day).weekday())
    }
}

fn minutes_today(now: SystemTime) -> u32 {
    let now = OffsetDateTime::from(now);
    u32::from(now.hour()) * 60 + u32::from(now.minute())
}

fn moment(text: &str) -> Result<SystemTime, String> {
    let moment = OffsetDateTime::parse(text, &Rfc3339);
    moment.map(SystemTime::from).map_err(|_| format!("{text:?} is no moment; write one like 2026-12-01T08:00:00Z"))
}

fn minute(text: &str) -> Result<u32, String> {
    let number = |digits: &str| digits.parse::<u32>().ok().filter(|_| digits.len() == 2);
    let parts = text.split_once(':').and_then(|(hour, minute)| Some((number(hour)?, number(minute)?)));
    let minutes = parts.filter(|(_, minute)| *minute < 60).map(|(hour, minute)| hour * 60 + minute);
    minutes
        .filter(|minutes| *minutes < DAY)
        .ok_or_else(|| format!("{text:?} is no time of day; write one like \"08:30\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(
        from: Option<&str>,
        until: Option<&str>,
        daily: Option<[&str; 2]>,
        days: &[Day],
    ) -> Result<Window, String> {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let daily = daily.map(|times| times.map(str::to_owned));
        Window::new(Entry { from: text(from), until: text(until), daily, days: days.to_vec() })
    }

    fn contains(window: &Window, times: &[(&str, bool)]) {
        for (time, expected) in times {
            assert_eq!(window.contains(moment(time).unwrap()), *expected, "{window:?} at {time}");
        }
    }

    #[test]
    fn a_window_has_a_first_and_no_last_moment() {
        let window = window(Some("2026-12-01T08:00:00+01:00"), Some("2026-12-01T09:00:00Z"), None, &[]).unwrap();
        let times = [("06:59:59Z", false), ("07:00:00Z", true), ("08:59:59Z", true), ("09:00:00Z", false)];
        contains(&window, &times.map(|(time, inside)| (&*format!("2026-12-01T{time}").leak(), inside)));
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_began() {
        // 27 November 2026 is a Friday.
        let night = window(None, None, Some(["22:00", "06:00"]), &[Day::Fri]).unwrap();
        let times = [
            ("2026-11-27T05:59:00Z", false),
            ("2026-11-27T21:59:59Z", false),
            ("2026-11-27T22:00:00Z", true),
            ("2026-11-28T05:59:59Z", true),
            ("2026-11-28T06:00:00Z", false),
            ("2026-11-28T22:00:00Z", false),
        ];
        contains(&night, &times);
        let day = window(None, None, Some(["08:00", "08:01"]), &[]).unwrap();
        contains(&day, &[("2026-11-27T08:00:59Z", true), ("2026-11-27T08:01:00Z", false)]);
    }

    #[test]
    fn mistakes_are_told_with_what_would_be_right() {
        for (made, why) in [
            (window(Some("tomorrow"), None, None, &[]), "like 2026-12-01T08:00:00Z"),
            (window(Some("2026-12-02T00:00:00Z"), Some("2026-12-01T00:00:00Z"), None, &[]), "later than"),
            (window(None, None, Some(["8:00", "09:00"]), &[]), "like \"08:30\""),
            (window(None, None, Some(["24:00", "09:00"]), &[]), "like \"08:30\""),
            (window(None, None, Some(["23:60", "09:00"]), &[]), "like \"08:30\""),
            (window(None, None, Some(["09:00", "09:00"]), &[]), "leave it out"),
            (window(None, None, None, &[]), "one of `from`"),
        ] {
            let error = made.unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
