#![no_std]
//! Empty on purpose: a library target lets lb-user's build script depend on this crate, so that
//! cargo rebuilds the embedded programs when they change.
