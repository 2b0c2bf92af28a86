//! One-sided operations between two Soft-RoCE devices. They run in the guest, which has them:
//! `cargo xtask guest test rdma`.

#![cfg(all(feature = "rdma", feature = "kernel"))]

mod guest;
