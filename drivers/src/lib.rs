//! The packet devices that exist.

mod any;
#[cfg(all(feature = "lab", any(feature = "tap", feature = "packet")))]
pub mod doctor;
#[cfg(feature = "lab")]
pub mod lab;
pub mod netlink;
mod open;
#[cfg(feature = "packet")]
pub mod packet;
mod spec;
#[cfg(feature = "tap")]
pub mod tap;
#[cfg(any(feature = "tap", feature = "packet"))]
mod vnet_hdr;

pub use any::{AnyDevice, AnyRx, AnyTx};
pub use open::OpenError;
pub use spec::{ParseSpecError, Spec};
