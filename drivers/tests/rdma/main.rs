//! RDMA by two Soft-RoCE devices on the ends of a veth pair. They run in the guest, which has them:
//! `cargo xtask guest test rdma`.

#![cfg(feature = "rdma")]

mod guest {
    mod device;
    mod failures;
    mod stations;
    mod verbs;
}
