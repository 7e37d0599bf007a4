//! The one place of the client that asks what time it is.

use std::sync::atomic::{AtomicU32, Ordering};

use ccb_core::id::RequestId;
use ccb_core::time::Time;
use jiff::{Timestamp, Zoned, tz::TimeZone};

/// Returns the present, in local time.
#[expect(clippy::disallowed_methods, reason = "a client makes request ids and shows ages: it needs a clock")]
pub(crate) fn now() -> Zoned {
    Timestamp::now().to_zoned(TimeZone::system())
}

/// Returns the present as the wire writes it.
pub(crate) fn present() -> Time {
    Time(now().timestamp().as_millisecond())
}

/// Returns a new request id.
pub(crate) fn request_id() -> RequestId {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    id_at(&now(), std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Returns a moment as people read it, in that time zone.
pub(crate) fn at(time: Time, zone: TimeZone) -> String {
    let moment = Timestamp::from_millisecond(time.0).unwrap_or_default();
    moment.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn id_at(now: &Zoned, pid: u32, n: u32) -> RequestId {
    let text = format!("{}-{:03}-{pid}-{n}", now.strftime("%Y%m%d-%H%M%S"), now.millisecond());
    RequestId::new(&text).expect("digits and dashes make an id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_predecessors_form_in_local_time() {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let moment = Timestamp::from_millisecond(1_795_377_181_007).unwrap().to_zoned(zone.clone());
        assert_eq!(id_at(&moment, 4711, 2).as_str(), "20261122-205301-007-4711-2");
        assert_eq!(at(Time(1_795_377_181_007), zone), "2026-11-22 20:53:01");
        assert_ne!(request_id(), request_id());
    }
}
