//! RDMA, through libibverbs, which is loaded when it is first used: a program built with this module
//! starts without the library.

pub mod verbs;
