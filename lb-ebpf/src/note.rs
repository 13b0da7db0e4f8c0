//! Messages from inside the program, for `mqlb run --kernel-log`. Only with the feature `log`;
//! otherwise they are not there at all.

/// Logs a message; `$ctx` is the program's context.
#[cfg(feature = "log")]
macro_rules! note {
    ($ctx:expr, $($message:tt)*) => { aya_log_ebpf::info!($ctx, $($message)*) };
}

/// Nothing.
#[cfg(not(feature = "log"))]
macro_rules! note {
    ($ctx:expr, $($message:tt)*) => {};
}

pub(crate) use note;
