//! What the fuzz targets share. `fuzz_targets/` holds the targets, `README.md` says how to run them.

#![forbid(unsafe_code)]

pub mod differential;
pub mod frames;
pub mod station;
pub mod tcp;
// The frames by hand of the stack's own tests.
#[path = "../../stack/tests/wire/mod.rs"]
mod wire;
