//! What was measured, on one page.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::link::Link;

/// One line of the table.
pub(super) struct Row {
    pub(super) link: Link,
    pub(super) outcome: Outcome,
}

/// What became of a link.
pub(super) enum Outcome {
    /// Everything arrived as it was sent.
    Measured(Figures),
    /// The device does not work here, and why.
    Unavailable(String),
    /// Something went wrong on the way.
    Failed(String),
}

/// What was measured over one link.
pub(super) struct Figures {
    /// Our end sends: bit/s.
    pub(super) serving: f64,
    /// Our end receives: bit/s.
    pub(super) fetching: f64,
    /// Round trips of small messages in nanoseconds.
    pub(super) round_trips: Histogram<u64>,
}

impl Figures {
    /// Median, 99th and 99.9th percentile of the round trips, in microseconds.
    fn percentiles(&self) -> [f64; 3] {
        [0.5, 0.99, 0.999].map(|q| self.round_trips.value_at_quantile(q) as f64 / 1e3)
    }
}

/// Prints the table, or one object per row.
pub(super) fn print(rows: &[Row], json: bool) {
    if json {
        for row in rows {
            println!("{}", object(row));
        }
        return;
    }
    println!(
        "64 MiB over HTTP, SHA-256 compared; round trips of 64 bytes; the kernel at the other end"
    );
    println!();
    println!("device      serving     fetching    rtt p50       p99     p99.9");
    for Row { link, outcome } in rows {
        match outcome {
            Outcome::Measured(figures) => {
                let [serving, fetching] = [figures.serving, figures.fetching].map(|r| r / 1e9);
                let [p50, p99, p999] = figures.percentiles();
                println!(
                    "{link:<7} {serving:>5.2} Gbit/s {fetching:>5.2} Gbit/s \
                     {p50:>7.1} µs {p99:>6.1} µs {p999:>6.1} µs"
                );
            }
            Outcome::Unavailable(reason) => println!("{link:<7} not here: {reason}"),
            Outcome::Failed(reason) => println!("{link:<7} FAILED: {reason}"),
        }
    }
}

fn object(Row { link, outcome }: &Row) -> Value {
    let device = link.to_string();
    match outcome {
        Outcome::Measured(figures) => {
            let [p50, p99, p999] = figures.percentiles();
            json!({
                "device": device,
                "serving_bits_per_second": figures.serving,
                "fetching_bits_per_second": figures.fetching,
                "rtt_p50_us": p50,
                "rtt_p99_us": p99,
                "rtt_p999_us": p999,
            })
        }
        Outcome::Unavailable(reason) => json!({ "device": device, "unavailable": reason }),
        Outcome::Failed(reason) => json!({ "device": device, "failed": reason }),
    }
}
