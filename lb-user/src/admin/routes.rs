//! Which path answers what.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::model::{ErrorBody, FlowFilter, Flows};
use super::{Pages, Source, metrics, password, query, stats};

pub(crate) type Answer = Response<Full<Bytes>>;

const PATHS: &str =
    "/stats, /metrics, /healthz, /readyz, /api/v1/status, /api/v1/where?id=…, /api/v1/flows";

/// What went wrong, and the status code for it.
struct Refusal(StatusCode, String);

pub(super) async fn answer<B>(pages: &Pages, request: &Request<B>) -> Answer {
    let path = request.uri().path();
    let known = [
        "/healthz",
        "/readyz",
        "/stats",
        "/metrics",
        "/api/v1/status",
        "/api/v1/where",
        "/api/v1/flows",
    ];
    if !known.contains(&path) {
        return refuse(Refusal(
            StatusCode::NOT_FOUND,
            format!("no such path; there are {PATHS}"),
        ));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let message = format!("{} is not for {path}; use GET", request.method());
        let mut answer = refuse(Refusal(StatusCode::METHOD_NOT_ALLOWED, message));
        answer
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    if let Some(password) = pages.password_of(path)
        && !password::fits(request.headers(), password)
    {
        let message = "user and password, please: see stats_password in the configuration";
        let mut answer = refuse(Refusal(StatusCode::UNAUTHORIZED, message.to_owned()));
        let asked = HeaderValue::from_static("Basic realm=\"statistics\", charset=\"UTF-8\"");
        answer.headers_mut().insert(WWW_AUTHENTICATE, asked);
        return answer;
    }
    let query = request.uri().query().unwrap_or_default();
    dispatch(pages.source.clone(), path, query)
        .await
        .unwrap_or_else(refuse)
}

async fn dispatch(source: Arc<dyn Source>, path: &str, query: &str) -> Result<Answer, Refusal> {
    Ok(match path {
        "/healthz" => plain(StatusCode::OK, "alive\n"),
        "/readyz" if source.ready() => plain(StatusCode::OK, "ready\n"),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        "/stats" => {
            let page = blocking(move || stats::render(&source.status())).await?;
            let mut answer = body(StatusCode::OK, "text/html; charset=utf-8", page);
            let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
            answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
            answer
        }
        "/metrics" => {
            let text = blocking(move || metrics::render(&source.status())).await?;
            body(StatusCode::OK, metrics::CONTENT_TYPE, text)
        }
        "/api/v1/status" => json(StatusCode::OK, &blocking(move || source.status()).await?),
        "/api/v1/where" => {
            let id = client_id(query)?;
            json(StatusCode::OK, &blocking(move || source.locate(&id)).await?)
        }
        _ => {
            let filter = filter(query)?;
            let flows = blocking(move || source.flows(filter)).await?;
            let failed = |error| {
                Refusal(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("cannot read the flows: {error:#}"),
                )
            };
            json(
                StatusCode::OK,
                &Flows {
                    flows: flows.map_err(failed)?,
                },
            )
        }
    })
}

/// Runs what may block on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "an admin request failed");
        Refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the agent failed to answer; its log says why".into(),
        )
    })
}

fn client_id(query: &str) -> Result<Vec<u8>, Refusal> {
    match &mut parameters(query, &["id"])?[..] {
        [(_, id)] => Ok(std::mem::take(id)),
        _ => Err(bad_request(
            "write one client identifier: /api/v1/where?id=…",
        )),
    }
}

fn filter(query: &str) -> Result<FlowFilter, Refusal> {
    let mut filter = FlowFilter {
        limit: FlowFilter::DEFAULT_LIMIT,
        backend: None,
    };
    for (key, value) in parameters(query, &["limit", "backend"])? {
        let text =
            String::from_utf8(value).map_err(|_| bad_request(format!("{key} is not UTF-8")))?;
        if key == "backend" {
            filter.backend = Some(text);
            continue;
        }
        let limit = text
            .parse()
            .ok()
            .filter(|limit| (1..=FlowFilter::MAX_LIMIT).contains(limit));
        filter.limit = limit.ok_or_else(|| {
            bad_request(format!(
                "limit={text} is no number from 1 to {}",
                FlowFilter::MAX_LIMIT
            ))
        })?;
    }
    Ok(filter)
}

/// The parameters, all of them `known`.
fn parameters(query: &str, known: &[&str]) -> Result<Vec<(String, Vec<u8>)>, Refusal> {
    let parameters = query::parse(query).map_err(bad_request)?;
    match parameters
        .iter()
        .find(|(key, _)| !known.contains(&key.as_str()))
    {
        Some((key, _)) => Err(bad_request(format!(
            "unknown parameter {key:?}; known: {}",
            known.join(", ")
        ))),
        None => Ok(parameters),
    }
}

fn bad_request(message: impl Into<String>) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, message.into())
}

fn refuse(Refusal(status, error): Refusal) -> Answer {
    json(status, &ErrorBody { error })
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    body(status, "text/plain; charset=utf-8", text)
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let text =
        serde_json::to_vec(value).expect("these types have string keys and no failing Serialize");
    body(status, "application/json", text)
}

fn body(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
