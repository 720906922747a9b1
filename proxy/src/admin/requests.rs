//! `/requests`: why requests ended as they did.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::Admin;
use super::answer::{decode, json_page, plain};
use crate::telemetry::why;

/// Records that are shown where nobody says how many.
const SHOWN: usize = 100;

/// Most records on one page.
const MAX_SHOWN: usize = 1000;

/// The answer for one id, or for all: `?format=json` or `text`, `?limit=N`.
pub(super) async fn answer(admin: &Admin, id: Option<&str>, query: &str) -> Response<Full<Bytes>> {
    let (mut text, mut limit) = (false, SHOWN);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("format", "text")) => text = true,
            Some(("format", "json")) => text = false,
            Some(("limit", count)) => match count.parse() {
                Ok(count @ 1..=MAX_SHOWN) => limit = count,
                _ => return plain(StatusCode::BAD_REQUEST, format!("limit is a number from 1 to {MAX_SHOWN}\n")),
            },
            _ => return plain(StatusCode::BAD_REQUEST, "write ?format=json or ?format=text, and ?limit=N\n"),
        }
    }
    let id = match id.map(decode) {
        Some(None) => return plain(StatusCode::BAD_REQUEST, "the id is not percent-encoded text\n"),
        id => id.flatten(),
    };
    let records = (admin.requests)(id.as_deref(), limit).await;
    match &id {
        Some(id) if records.is_empty() => {
            let why = "none is kept without `telemetry.why`; with it the last `keep` of those that `sample` chose are";
            plain(StatusCode::NOT_FOUND, format!("no record of the request {id:?}: {why}\n"))
        }
        _ if text => {
            let all: Vec<String> = records.iter().map(ToString::to_string).collect();
            plain(StatusCode::OK, all.join("\n"))
        }
        _ => {
            let all: Vec<Value> = records.iter().map(why::json).collect();
            json_page(&json!({ "requests": all }))
        }
    }
}
