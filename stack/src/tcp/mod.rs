//! TCP: the engine seam and what every engine shares.

mod engine;
mod flows;
mod info;
mod listener;
mod options;
mod reset;
mod smoltcp;
mod table;

pub(crate) use engine::{Connection, RecvEnd, State};
pub(crate) use flows::{Route, Tcp};
pub use info::{TcpInfo, TcpState};
pub use options::{KeepAlive, TcpOptions};
pub(crate) use smoltcp::SmoltcpEngine;
pub(crate) use table::HashKey;
