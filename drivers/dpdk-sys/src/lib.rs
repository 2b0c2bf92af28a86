#![doc = include_str!("../README.md")]

#[cfg(feature = "libdpdk")]
mod bindings {
    #![allow(missing_docs, unreachable_pub, non_upper_case_globals)]
    #![allow(non_camel_case_types, non_snake_case, unnecessary_transmutes)]
    #![allow(clippy::all, clippy::pedantic, clippy::undocumented_unsafe_blocks)]

    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

#[cfg(feature = "libdpdk")]
pub use bindings::*;
