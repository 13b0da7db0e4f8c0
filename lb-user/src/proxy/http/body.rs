//! Bodies of answers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use super::Session;
use crate::proxy::silent::Away;

/// Any body.
pub(super) type Body = BoxBody<Bytes, hyper::Error>;

/// One that is here as a whole.
pub(super) fn whole(body: Full<Bytes>) -> Body {
    body.map_err(|never| match never {}).boxed()
}

/// What a backend sends.
pub(super) fn streamed(body: Incoming) -> Body {
    body.boxed()
}

/// An answer of our own, for people.
pub(super) fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let line = Bytes::from_static(text.as_bytes());
    let mut answer = Response::new(whole(Full::new([&line[..], b"\n"].concat().into())));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}

/// A connection whose request is being answered: it isn't silent until this is dropped.
pub(super) struct Busy {
    session: Arc<Session>,
    away: Option<Away>,
}

impl Busy {
    pub fn new(session: Arc<Session>) -> Self {
        let away = session.place().as_mut().map(|place| place.leave());
        Self { session, away }
    }

    /// Until the answer's body has gone.
    pub fn until_sent(self, answer: Response<Body>) -> Response<Body> {
        answer.map(|body| Sending { body, _busy: self }.boxed())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let (Some(place), Some(away)) = (self.session.place().as_mut(), self.away.take()) {
            place.come_back(away);
        }
    }
}

struct Sending {
    body: Body,
    _busy: Busy,
}

impl hyper::body::Body for Sending {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
