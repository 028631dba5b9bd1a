//! HTTP pages on which each client sees its own queries. The source address of the connection identifies the client, which
//! therefore needs no credentials and sees no other client. The pages have a listener of their own: pods need not reach
//! the admin address.
//!
//! `hints` limits what a client sees of other views, servers and the cache; with `off` it gets no page.
//!
//! A connection carries one request. Clients ask once, and no connection takes a place for longer than that takes.

use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CACHE_CONTROL, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};

use super::connections::{ConnectionGate, Pages};
use super::{JSON, jobs, json_page, page, text, unless_it_shows};
use crate::admission::connections::Caps;
use crate::answer::diagnosis::Reader;
use crate::answer::{Resolver, why};
use crate::clients::ClientIdentity;
use crate::clock::Millis;
use crate::config::Hints;
use crate::effective_view::EffectiveViewId;
use crate::jobs::{ClientStats, Excerpt, Pick};
use crate::snapshot::Snapshot;
use crate::wire::cache_key::CacheKey;
use crate::wire::name::{DisplayNoDot, Name};
use crate::wire::rtype;
use crate::wire::text::plain;

/// Limit on connections of allowed clients; lower where file descriptors are scarce.
const MOST_CONNECTIONS: usize = 256;
/// Connection limit of one address.
const MOST_PER_CLIENT: usize = 4;
/// Lifetime of a connection.
const LONGEST_CONNECTION: Duration = Duration::from_secs(5);

/// Path of the page about a name, without the name.
const WHY: &str = "/v1/why/";

/// Path and description of each page.
const PAGES: &str = "\
/v1/me         what you asked, how slow it was and why it failed; as JSON with \"Accept: application/json\"
/v1/me.json    the same as JSON
/v1/why/NAME   which way NAME takes, what is known of it, and why it failed for you
";

impl Pages for ReportPages {
    fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    fn admits(&self, visitor: IpAddr) -> bool {
        self.resolver.snapshot.load().admission.admits(visitor)
    }

    fn respond(&self, request: &Request<Incoming>, visitor: IpAddr) -> Response<Full<Bytes>> {
        let mut response = self.respond_to(request, visitor);
        // The response is valid only for this client and only now.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn turn_away(&self, visitor: IpAddr) -> Response<Full<Bytes>> {
        page(StatusCode::FORBIDDEN, format!("{visitor} may not ask here: it is not in server.allow\n"))
    }
}

/// Report pages and the state that they show.
pub(crate) struct ReportPages {
    resolver: Arc<Resolver>,
    door: ConnectionGate,
}

impl ReportPages {
    /// Creates the report pages from the state that workers share, with a limit on connections.
    pub(crate) fn new(resolver: Arc<Resolver>, connections: usize) -> Arc<Self> {
        let caps = Caps { total: connections.min(MOST_CONNECTIONS), per_client: MOST_PER_CLIENT };
        Arc::new(Self { resolver, door: ConnectionGate::new(caps, LONGEST_CONNECTION, LONGEST_CONNECTION, false) })
    }

    /// Serves the pages until its task is dropped.
    ///
    /// # Errors
    /// The listener cannot be registered with the runtime.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) -> std::io::Result<()> {
        self.door.serve(&self, listener).await
    }

    fn respond_to(&self, request: &Request<Incoming>, address: IpAddr) -> Response<Full<Bytes>> {
        let (snapshot, now) = (self.resolver.snapshot.load(), self.resolver.now());
        let tables = self.resolver.tables(&snapshot);
        let identity = tables.identify(address, now);
        let view = snapshot.views.of(&identity, address);
        let hints = snapshot.hints(view);
        if hints == Hints::Off {
            return page(StatusCode::FORBIDDEN, "reports are switched off for this client (hints = \"off\")\n");
        }
        let path = request.uri().path();
        let name = path.strip_prefix(WHY);
        if name.is_none() && !matches!(path, "/" | "/v1/me" | "/v1/me.json") {
            return page(StatusCode::NOT_FOUND, format!("not found; there is:\n\n{PAGES}"));
        }
        if let Some(refusal) = unless_it_shows(request.method()) {
            return refusal;
        }
        let as_json = path.ends_with("/me.json")
            || request
                .headers()
                .get_all(ACCEPT)
                .iter()
                .any(|kinds| kinds.to_str().is_ok_and(|kinds| kinds.contains(JSON)));
        let effective_view = snapshot.sees(view);
        let visitor = Visitor { snapshot: &snapshot, address, identity, effective_view, hints, now };
        match name {
            Some(name) => self.why(name, &visitor, as_json),
            None if path == "/" => page(StatusCode::OK, PAGES),
            None => self.me(&visitor, as_json),
        }
    }

    /// Reports the identity of the client, its query counts and its failures.
    fn me(&self, visitor: &Visitor<'_>, as_json: bool) -> Response<Full<Bytes>> {
        let &Visitor { snapshot, address, identity, now, .. } = visitor;
        let known = match identity {
            ClientIdentity::Known { client, .. } => client,
            ClientIdentity::Unknown(why) => {
                let explanation = format!("{address} is not known: {why}\n");
                let value = json!({
                    "known": false,
                    "address": address.to_string(),
                    "reason": why.label(),
                    "explanation": why.to_string(),
                });
                return respond(StatusCode::NOT_FOUND, as_json, &value, |_| explanation);
            }
        };
        let excerpt = self.resolver.accounts.jobs.look(known, Pick::All);
        let quiet = excerpt.is_none();
        let nothing = || Excerpt { account: ClientStats::new(Some(Arc::clone(known)), address, now), like: Vec::new() };
        let mut value = jobs::report(&self.resolver, snapshot, &excerpt.unwrap_or_else(nothing), visitor.reader());
        if quiet {
            for time in ["first", "last", "last_age_seconds"] {
                value[time] = Value::Null;
            }
        }
        respond(StatusCode::OK, as_json, &value, text::job)
    }

    /// Explains how a name is resolved for the client.
    fn why(&self, name: &str, visitor: &Visitor<'_>, as_json: bool) -> Response<Full<Bytes>> {
        let Ok(name) = name.parse::<Name>() else {
            return page(StatusCode::BAD_REQUEST, "NAME is a domain name: /v1/why/git.corp.example\n");
        };
        let excerpt = match visitor.identity {
            ClientIdentity::Known { client, .. } => self.resolver.accounts.jobs.look(client, Pick::Of(name.as_wire())),
            ClientIdentity::Unknown(_) => None,
        };
        let question = CacheKey::of_stub(name.as_wire(), rtype::A, visitor.effective_view);
        let lines = why(&self.resolver, visitor.snapshot, visitor.now, &question, excerpt, visitor.reader());
        let value = json!({ "name": DisplayNoDot(name.as_wire()).to_string(), "lines": lines });
        respond(StatusCode::OK, as_json, &value, |_| lines.iter().map(|line| plain(line) + "\n").collect())
    }
}

/// Client that requests a page.
struct Visitor<'s> {
    snapshot: &'s Snapshot,
    address: IpAddr,
    identity: ClientIdentity<'s>,
    effective_view: EffectiveViewId,
    hints: Hints,
    now: Millis,
}

impl Visitor<'_> {
    fn reader(&self) -> Reader {
        Reader::Client(self.hints, self.effective_view)
    }
}

/// Returns the value as JSON, or as the text that `text` makes of it.
fn respond(
    status: StatusCode,
    as_json: bool,
    value: &Value,
    text: impl FnOnce(&Value) -> String,
) -> Response<Full<Bytes>> {
    let mut response = match as_json {
        true => json_page(format!("{value:#}\n")),
        false => page(status, text(value)),
    };
    *response.status_mut() = status;
    response
}
