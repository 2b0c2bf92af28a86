//! Times between two things, as they are given on the command line.

use std::time::Duration;

/// Seconds, a millisecond at least.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(interval) if interval >= Duration::from_millis(1) => Ok(interval),
        _ => Err("at least 0.001 seconds".to_owned()),
    }
}
