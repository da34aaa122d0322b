//! Moments in words.

use std::time::{Duration, UNIX_EPOCH};

/// The last second that RFC 3339 can write: the end of year 9999.
const LAST: u64 = 253_402_300_799;

/// A moment, from seconds since 1970: `2026-11-24T12:34:56Z`.
pub fn rfc3339(seconds: u64) -> String {
    let moment = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST));
    humantime::format_rfc3339_seconds(moment).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_that_no_file_should_hold_is_the_last_one() {
        assert_eq!(rfc3339(1_795_523_696), "2026-11-24T12:34:56Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
