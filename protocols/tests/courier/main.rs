//! [`Courier`](underpass_protocols::courier::Courier) in virtual time over a simulated network.

mod chaos;
mod congestion;
mod delivery;
mod hostile;
mod latency;
mod limits;
mod lives;
mod world;
