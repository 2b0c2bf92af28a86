//! TCP: the engine seam and what every engine shares.

mod engine;
mod flows;
mod listener;
mod reset;
mod smoltcp;
mod table;

pub(crate) use engine::{Connection, RecvEnd, State};
pub(crate) use flows::Tcp;
pub(crate) use smoltcp::SmoltcpEngine;
pub(crate) use table::HashKey;
