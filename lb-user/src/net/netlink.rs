//! The netlink connection that links, routes and neighbours are asked for by.

use std::io;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use rtnetlink::{Error as Rtnetlink, Handle};

use super::{NetError, Result};

/// Netlink answers from memory: whoever waits longer than this waits for ever.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens a netlink socket in the calling thread's network namespace. The task that serves it ends
/// when the last clone of the handle is dropped.
///
/// # Panics
/// Outside a tokio runtime.
pub fn open() -> Result<Handle> {
    let (connection, handle, _unsolicited) =
        rtnetlink::new_connection().map_err(NetError::io("cannot open a netlink socket"))?;
    tokio::spawn(connection);
    Ok(handle)
}

/// The first answer to a request; `None` if the kernel says that there is no such thing (ENODEV,
/// ENOENT).
pub(super) async fn first<T>(
    what: impl Fn() -> String,
    answers: impl Stream<Item = Result<T, Rtnetlink>>,
) -> Result<Option<T>> {
    let mut answers = std::pin::pin!(answers);
    match tokio::time::timeout(PATIENCE, answers.next()).await {
        Err(_) => Err(NetError::NetlinkSilent {
            what: what(),
            timeout: PATIENCE,
        }),
        Ok(Some(Ok(answer))) => Ok(Some(answer)),
        Ok(Some(Err(error))) if matches!(errno(&error), Some(libc::ENODEV | libc::ENOENT)) => {
            Ok(None)
        }
        Ok(Some(Err(source))) => Err(NetError::Netlink {
            what: what(),
            source,
        }),
        Ok(None) => Err(NetError::Netlink {
            what: what(),
            source: Rtnetlink::RequestFailed,
        }),
    }
}

/// All answers to a dump.
pub(super) async fn all<T>(
    what: impl Fn() -> String,
    answers: impl Stream<Item = Result<T, Rtnetlink>>,
) -> Result<Vec<T>> {
    let collected = answers.collect::<Vec<_>>();
    let answers = tokio::time::timeout(PATIENCE, collected)
        .await
        .map_err(|_| NetError::NetlinkSilent {
            what: what(),
            timeout: PATIENCE,
        })?;
    answers
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|source| NetError::Netlink {
            what: what(),
            source,
        })
}

/// The positive error number that the kernel answered, if it did.
pub(super) fn errno(error: &Rtnetlink) -> Option<i32> {
    match error {
        Rtnetlink::NetlinkError(message) => Some(-message.raw_code()).filter(|code| *code > 0),
        _ => None,
    }
}

/// The same as an [`io::Error`], for its text.
pub(super) fn os_error(error: &Rtnetlink) -> Option<io::Error> {
    errno(error).map(io::Error::from_raw_os_error)
}
