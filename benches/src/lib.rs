//! What the benchmarks of Underpass share: the stations that are compared, and how results are
//! printed.
//!
//! | program | question |
//! |---|---|
//! | `cargo bench -p underpass-benches --bench leaf` | what one hot function costs |
//! | `cargo run --release -p underpass-benches --bin flow_scaling` | does the number of open connections matter |
//! | `cargo run --release -p underpass-benches --bin bulk` | how fast is one connection, on which device |
//! | `cargo run --release -p underpass-benches --bin frames` | how many frames a device receives and sends, beside DPDK |
//! | `cargo run --release -p underpass-benches --bin round_trip` | how long a message and its answer take, on which device |
//! | `cargo run --release -p underpass-benches --features kring --bin frame_echo` | how long a frame and its echo take, beside an echo in the kernel |
//! | `cargo run --release -p underpass-benches --features dpdk --bin icmp_echo` | how long a ping takes, beside DPDK |
//! | `cargo run --release -p underpass-benches --features rdma --bin datagrams` | what a frame costs on an RDMA device, beside perftest's messages |
//! | `cargo run --release -p underpass-benches --bin courier` | how many small calls one core carries |
//! | `cargo run --release -p underpass-benches --features rdma --bin remote_memory` | how long a one-sided write and read take, beside perftest |
//! | `cargo run --release -p underpass-benches --bin shards` | do two shards do twice the work of one |
//! | `cargo run --release -p underpass-benches --bin idle_flows` | how much memory an idle connection takes |
//!
//! Contenders of one comparison run interleaved in the same process, so that a busy machine slows
//! all of them; results are the minimum, median and maximum over the rounds.

#![forbid(unsafe_code)]

pub mod cpus;
pub mod kernel;
pub mod lab;
pub mod pair;
pub mod perftest;
pub mod plain;
pub mod report;
pub mod testpmd;
pub mod turned;
