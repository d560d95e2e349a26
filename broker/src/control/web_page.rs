//! Refuses requests of web pages on TCP. Used by `control`.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::answer::ApiError;

/// Used on TCP only. A web page that a user of this machine opens must not control the broker.
/// Browsers send the page's origin with requests that change something, the host name of the URL as
/// Host, and Sec-Fetch-Site with what a page embeds, such as an image.
pub(super) async fn refuse_browsers(request: Request, next: Next) -> Result<Response, ApiError> {
    match of_web_page(request.headers()) {
        Some(sentence) => Err(ApiError::new(StatusCode::FORBIDDEN, sentence)),
        None => Ok(next.run(request).await),
    }
}

/// Why a request is refused; `None` if no web page has made it.
fn of_web_page(headers: &HeaderMap) -> Option<&'static str> {
    if headers.contains_key(header::ORIGIN) {
        return Some("requests of web pages are refused (they carry an Origin header)");
    }
    // A URL typed into the address bar has `none`.
    let is_own = |site: &HeaderValue| matches!(site.as_bytes(), b"none" | b"same-origin");
    if !headers.get_all("sec-fetch-site").iter().all(is_own) {
        return Some(
            "requests of web pages are refused (they carry a Sec-Fetch-Site header that names another site)",
        );
    }
    let loopback =
        "the Host header must name localhost or a loopback address, as requests from this machine have";
    (!names_loopback(headers)).then_some(loopback)
}

fn names_loopback(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_embedded_in_pages_of_other_sites_are_refused() {
        let refused = |site: &[&'static str], host: &'static str| {
            let mut headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
            for site in site {
                headers.append("sec-fetch-site", HeaderValue::from_static(site));
            }
            of_web_page(&headers).is_some()
        };
        for site in [&[][..], &["none"], &["same-origin"]] {
            assert!(!refused(site, "127.0.0.1:8083"), "{site:?}");
            assert!(refused(site, "example.org"), "{site:?}");
        }
        for site in [&["cross-site"][..], &["same-site"], &[""], &["none", "cross-site"]] {
            assert!(refused(site, "127.0.0.1:8083"), "{site:?}");
        }
    }

    #[test]
    fn only_loopback_names_count_as_this_machine() {
        let named = |host: &'static str| {
            names_loopback(&HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]))
        };
        for host in ["localhost", "localhost:80", "127.0.0.1:8083", "127.0.0.2", "[::1]:80", "[::1]"] {
            assert!(named(host), "{host}");
        }
        for host in ["example.org", "localhost.example.org", "10.0.0.1:80", "", "127.0.0.1.example.org:80"] {
            assert!(!named(host), "{host}");
        }
        assert!(!names_loopback(&HeaderMap::new()));
    }
}
