#![cfg_attr(not(test), no_std)]
//! What the kernel side and the user side of mqlb share.
