//! What becomes of one request: it goes on with its session, is sent to the provider, comes back from there, or signs out.
//!
//! Runs again from its start after everything that was needed, and changes the context only when it has all.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ebbgate_model::{AppSessionId, AppUserId, Ksuid};
use http::header::{HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use serde_json::json;

use super::answer::{add_cookie, is_below, is_preflight, later, respond, same, told};
use super::ask::{About, Client, Granted, Or, Site, word};
use super::settings::{By, SignIn};
use crate::action::{Flow, Gathered};
use crate::code;
use crate::facts::Context;
use crate::identity::{
    self, Ask, CALLBACK_PATH, COOKIE_BYTES_MAX, Cookie, Drawn, Identity, LOGIN_PATH, PENDING_SECS_MAX,
    Pending, Session, SessionFacts, SessionNote, Tokens, binding, is_return_path, parameter,
};
use crate::verdict::{Effect, Reply};

/// Characters of a browser's name that are told.
const USER_AGENT_CHARS_MAX: usize = 256;
/// Longest code or error that a provider sends back with a visitor, in bytes.
const CODE_BYTES_MAX: usize = 2048;
/// Headers that no visitor may send to an upstream: they name the person.
const OWN_HEADERS: &str = "ngrok-auth-";
const ACCESS_TOKEN: HeaderName = HeaderName::from_static("ngrok-auth-oauth-access-token");
const REFRESH_TOKEN: HeaderName = HeaderName::from_static("ngrok-auth-oauth-refresh-token");

/// Decides about a request.
pub(super) fn visit(action: &SignIn, facts: &SessionFacts, cx: &mut Context, gathered: &Gathered) -> Flow {
    let visit = match Visit::new(action, facts, cx) {
        Ok(visit) => visit,
        Err(flow) => return *flow,
    };
    visit.run(cx, gathered).unwrap_or_else(|flow| *flow)
}

struct Visit<'a> {
    client: Client<'a>,
    drawn: Drawn,
    /// As the visitor names it, port included.
    host: String,
    session: Cookie,
    pending: Cookie,
    session_place: Vec<u8>,
    pending_place: Vec<u8>,
}

/// What a request's cookie says.
enum Found {
    Session(Box<Session>),
    TimedOut,
    Nothing,
}

impl<'a> Visit<'a> {
    fn new(action: &'a SignIn, facts: &'a SessionFacts, cx: &Context) -> Or<Self> {
        let (kind, _) = action.by.kinds();
        let fail = |why: String| {
            Box::new(Flow::failed(code::EXPRESSION_FAILED, format!("{kind} `{}`: {why}", action.auth_id)))
        };
        if cx.conn.tls.is_none() {
            return Err(fail(
                "the visitor's connection is not https, and the cookies of a session travel over https only"
                    .into(),
            ));
        }
        if facts.ring.is_empty() && facts.assumed.is_empty() {
            return Err(fail(
                "this edge has no key to seal sessions with: control sends it as it starts".into(),
            ));
        }
        let request = cx.request.as_ref().ok_or_else(|| fail("there is no request".into()))?;
        let host = request.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let host = host.to_ascii_lowercase();
        let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
        let domain = action.domain.as_deref();
        if let Some(domain) = domain.filter(|domain| !is_below(name, domain)) {
            return Err(fail(format!(
                "no browser takes a cookie for {domain} from another domain's host: mend auth_cookie_domain"
            )));
        }
        let render = |template: &crate::expr::Template| {
            template
                .render(cx)
                .map_err(|e| Box::new(Flow::failed(code::INTERPOLATION_FAILED, format!("{kind}: {e}"))))
        };
        let (id, secret) = (render(&action.client_id)?, render(&action.client_secret)?);
        let url = cx.endpoint.url.to_string();
        let (place, at) = domain.map_or((url.as_str(), name), |domain| ("domain", domain));
        let bound = |purpose: &str, place: &str, at: &str| {
            let by = action.by.name();
            binding(&[purpose, &facts.account, place, at, kind, by, &id, &action.auth_id])
        };
        Ok(Self {
            session: Cookie::new("session", &action.auth_id, domain),
            pending: Cookie::new("nonce", &action.auth_id, None),
            session_place: bound("session", place, at),
            pending_place: bound("nonce", &url, name),
            client: Client { action, id, secret, facts, now_unix_secs: cx.now_unix_ms.div_euclid(1_000) },
            drawn: facts.drawn(),
            host,
        })
    }

    fn now(&self) -> i64 {
        self.client.now_unix_secs
    }

    fn run(&self, cx: &mut Context, gathered: &Gathered) -> Or<Flow> {
        let action = self.client.action;
        let Some(request) = &cx.request else { return Ok(Flow::Next) };
        match cx.addressed.as_ref().map(|addressed| addressed.ask) {
            Some(Ask::Callback) => return self.come_back(request, gathered).map(respond),
            Some(Ask::Login) => return self.sign_in(request, gathered).map(respond),
            Some(Ask::Logout) => return self.sign_out(request, gathered).map(respond),
            None => {}
        }
        if action.allow_cors_preflight && is_preflight(request) {
            self.clean(cx, None);
            return Ok(Flow::Next);
        }
        if let Some(assumed) = self.client.facts.assumed.get(&action.auth_id) {
            let session = self.begun(assumed.clone(), Tokens::default());
            self.clean(cx, Some(&session));
            return Ok(Flow::Next);
        }
        let session = match self.found(&request.headers) {
            Found::Session(session) => match gathered.ended {
                None => return Err(Box::new(Flow::Need(Effect::IsEnded(session.id)))),
                Some(true) => None,
                Some(false) => self.go_on(*session, gathered)?,
            },
            Found::TimedOut => None,
            Found::Nothing => return self.send_away(request, gathered).map(respond),
        };
        let Some((session, changed)) = session else {
            let reply = self.send_away(request, gathered)?;
            let (_, name) = action.by.kinds();
            cx.set_result(name, json!({ "session_timed_out": true }));
            return Ok(respond(reply));
        };
        if changed {
            let cookie = self.sealed(&session)?;
            cx.set_cookie(cookie);
        }
        self.clean(cx, Some(&session));
        Ok(Flow::Next)
    }

    /// What the request's cookies hold.
    fn found(&self, headers: &HeaderMap) -> Found {
        let opened = self
            .session
            .read(headers)
            .into_iter()
            .find_map(|value| Session::read(&self.client.facts.ring.open(&self.session_place, &value)?));
        match opened {
            Some(session) if session.is_over(&self.client.action.lifetimes, self.now()) => Found::TimedOut,
            Some(session) => Found::Session(Box::new(session)),
            None => Found::Nothing,
        }
    }

    /// A session as it goes on, and whether its cookie is to be another. None: it is over.
    fn go_on(&self, mut session: Session, gathered: &Gathered) -> Or<Option<(Session, bool)>> {
        let (now, lifetimes) = (self.now(), &self.client.action.lifetimes);
        let mut changed = session.is_to_be_noted(lifetimes, now);
        if session.tokens.are_due(now) && session.home == self.client.facts.edge {
            let site = self.client.site(gathered)?;
            match self.client.refresh(gathered, &site, &session.tokens.refresh)? {
                Granted::Tokens(new) => {
                    let old = std::mem::replace(&mut session.tokens, new);
                    if session.tokens.refresh.is_empty() {
                        session.tokens.refresh = old.refresh;
                    }
                    if session.tokens.identity.is_empty() {
                        session.tokens.identity = old.identity;
                    }
                    changed = true;
                }
                Granted::Refused => return Ok(None),
                Granted::Failed(_) if !session.tokens.have_expired(now) => {}
                Granted::Failed(_) => return Err(Box::new(respond(later()))),
            }
        } else if session.tokens.have_expired(now) && !session.tokens.refresh.is_empty() {
            // Another edge spends this session's refresh tokens; a new sign-in makes this one their home.
            return Ok(None);
        }
        if session.is_to_be_asked(lifetimes, now) {
            let site = self.client.site(gathered)?;
            if !site.endpoints.userinfo_endpoint.is_empty() {
                match self.client.about(gathered, &site, &session.tokens.access)? {
                    About::Person(who) if who.provider_user_id == session.who.provider_user_id => {
                        session.who = who;
                        session.asked_at = now;
                        changed = true;
                    }
                    About::Person(_) | About::Refused => return Ok(None),
                    About::Failed(_) => {}
                }
            }
        }
        if changed {
            session.seen_at = now;
        }
        Ok(Some((session, changed)))
    }

    /// A new session.
    fn begun(&self, who: Identity, tokens: Tokens) -> Session {
        let now = self.now();
        let ksuid = Ksuid::new(u64::try_from(now).unwrap_or_default(), self.drawn.session);
        Session {
            id: AppSessionId::new(ksuid),
            who,
            tokens,
            made_at: now,
            seen_at: now,
            asked_at: now,
            home: self.client.facts.edge.clone(),
        }
    }

    /// `Set-Cookie` of a session. The ID token is left out where the cookie would be too long for browsers.
    fn sealed(&self, session: &Session) -> Or<HeaderValue> {
        let left = self.client.action.lifetimes.max_secs - (self.now() - session.made_at);
        let seal = |session: &Session| {
            let ring = &self.client.facts.ring;
            ring.seal(self.now(), self.drawn.session_nonce, &self.session_place, &session.text())
        };
        let mut bytes = 0;
        let mut without = session.clone();
        without.tokens.identity = String::new();
        for session in [session, &without] {
            let Some(value) = seal(session) else {
                return Err(self.client.failed("the session cannot be sealed"));
            };
            if self.session.fits(&value) {
                return Ok(self.session.set(&value, left.max(1)));
            }
            bytes = value.len();
        }
        Err(self.client.failed(format_args!(
            "the session takes {bytes} bytes as a cookie, and browsers keep {COOKIE_BYTES_MAX}: the tokens of {} are too long; ask for fewer scopes or claims",
            self.client.action.by.name()
        )))
    }

    /// What upstreams and later actions see: who the visitor is, and nothing with which they could be the visitor.
    fn clean(&self, cx: &mut Context, session: Option<&Session>) {
        let action = self.client.action;
        if let Some(request) = &mut cx.request {
            identity::strip(&mut request.headers, &[&self.session, &self.pending]);
            let own: Vec<HeaderName> = request
                .headers
                .keys()
                .filter(|name| name.as_str().starts_with(OWN_HEADERS))
                .cloned()
                .collect();
            for name in own {
                request.headers.remove(name);
            }
            if let (By::Published(_), Some(session)) = (&action.by, session) {
                for (name, token) in
                    [(ACCESS_TOKEN, &session.tokens.access), (REFRESH_TOKEN, &session.tokens.refresh)]
                {
                    if let (false, Ok(mut value)) = (token.is_empty(), HeaderValue::try_from(token)) {
                        value.set_sensitive(true);
                        request.headers.insert(name, value);
                    }
                }
            }
        }
        let Some(session) = session else { return };
        let (_, name) = action.by.kinds();
        let is_oidc = matches!(action.by, By::Issuer(_));
        let id_name = if is_oidc { "current_session_id" } else { "current_provider_session_id" };
        let mut result = session.json(self.user_id(&session.who), id_name);
        if let (true, Some(members)) = (is_oidc, result.as_object_mut()) {
            members.insert("identity_token".into(), session.tokens.identity.clone().into());
        }
        cx.set_result(name, result);
    }

    /// The same id for the same person at the same provider, in one account.
    fn user_id(&self, who: &Identity) -> AppUserId {
        let parts = ["user", &self.client.facts.account, self.client.action.by.name(), &who.provider_user_id];
        let digest = binding(&parts);
        let bytes = digest.first_chunk::<16>().copied().unwrap_or_default();
        AppUserId::new(Ksuid::new(0, bytes))
    }

    /// A visitor without session.
    fn send_away(&self, request: &Parts, gathered: &Gathered) -> Or<Reply> {
        let mode = request.headers.get("sec-fetch-mode");
        let navigates =
            mode.is_none_or(|mode| mode == "navigate") && !request.headers.contains_key("upgrade");
        if !matches!(request.method, Method::GET | Method::HEAD) || !navigates {
            let mut reply = told(
                StatusCode::UNAUTHORIZED,
                "You are not signed in. Open this page in a browser to sign in.",
            );
            let challenge = format!("Session realm=\"{}\"", self.client.action.auth_id);
            if let Ok(value) = HeaderValue::try_from(challenge) {
                reply.headers.insert(WWW_AUTHENTICATE, value);
            }
            return Ok(reply);
        }
        let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if is_return_path(path) { path } else { "/" };
        self.away(gathered, path, false)
    }

    /// `/ngrok/login`.
    fn sign_in(&self, request: &Parts, gathered: &Gathered) -> Or<Reply> {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Ok(told(StatusCode::METHOD_NOT_ALLOWED, "Sign in with GET."));
        }
        let path = parameter(request, "redirect_path");
        let is_given = request.uri.query().is_some_and(|query| query.contains("redirect_path"));
        match path.as_deref() {
            Some(path) if is_return_path(path) => self.away(gathered, path, true),
            None if !is_given => self.away(gathered, "/", true),
            _ => Ok(told(
                StatusCode::BAD_REQUEST,
                "`redirect_path` is a path of this host: one slash, then anything but a slash or a backslash.",
            )),
        }
    }

    /// Sends the browser to the provider. `anew`: the provider asks for credentials even if it knows the visitor.
    fn away(&self, gathered: &Gathered, return_to: &str, anew: bool) -> Or<Reply> {
        let action = self.client.action;
        let site = self.client.site(gathered)?;
        let pending = Pending {
            state: identity::state(&self.drawn.state, &action.auth_id),
            nonce: self.drawn.nonce.clone(),
            verifier: self.drawn.verifier.clone(),
            return_to: return_to.to_owned(),
            began_at: self.now(),
        };
        let ring = &self.client.facts.ring;
        let sealed = ring.seal(self.now(), self.drawn.pending_nonce, &self.pending_place, &pending.text());
        let Some(sealed) = sealed.filter(|sealed| self.pending.fits(sealed)) else {
            return Err(self.client.failed("the sign-in cannot be sealed"));
        };
        let url = self.authorization_url(&site, &pending, anew);
        let mut reply = self.redirect(&url)?;
        add_cookie(&mut reply, self.pending.set(&sealed, PENDING_SECS_MAX));
        Ok(reply)
    }

    fn authorization_url(&self, site: &Site, pending: &Pending, anew: bool) -> String {
        let action = self.client.action;
        let endpoint = &site.endpoints.authorization_endpoint;
        let mut query = form_urlencoded::Serializer::new(String::new());
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.client.id)
            .append_pair("redirect_uri", &self.callback())
            .append_pair("scope", &action.scopes.join(" "))
            .append_pair("state", &pending.state);
        if matches!(action.by, By::Issuer(_)) {
            query.append_pair("nonce", &pending.nonce);
            if anew && !action.parameters.iter().any(|(name, _)| name == "prompt") {
                query.append_pair("prompt", "login");
            }
        }
        if self.client.uses_challenge() {
            let challenge =
                aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, pending.verifier.as_bytes());
            query
                .append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(challenge))
                .append_pair("code_challenge_method", "S256");
        }
        query.extend_pairs(&action.parameters);
        let mark = if endpoint.contains('?') { '&' } else { '?' };
        format!("{endpoint}{mark}{}", query.finish())
    }

    fn callback(&self) -> String {
        format!("https://{}{CALLBACK_PATH}", self.host)
    }

    /// The browser is back from the provider.
    fn come_back(&self, request: &Parts, gathered: &Gathered) -> Or<Reply> {
        let action = self.client.action;
        let state = parameter(request, "state").unwrap_or_default();
        let ring = &self.client.facts.ring;
        let pending = self.pending.read(&request.headers).into_iter().find_map(|value| {
            let pending = Pending::read(&ring.open(&self.pending_place, &value)?, self.now())?;
            same(&pending.state, &state).then_some(pending)
        });
        let Some(pending) = pending.filter(|_| request.method == Method::GET) else {
            let text = "This sign-in was not begun in this browser, is over already, or took longer than ten minutes.";
            return Ok(self.refused(text));
        };
        let issuer = parameter(request, "iss");
        if let (By::Issuer(expected), Some(issuer)) = (&action.by, issuer)
            && issuer != *expected
        {
            // RFC 9207 section 2.4.
            return Ok(self.refused("The answer is another provider's."));
        }
        if let Some(error) = parameter(request, "error") {
            let text = format!("The provider did not sign you in: {}.", word(&error));
            return Ok(self.refused(&text));
        }
        let code = parameter(request, "code").filter(|code| (1..=CODE_BYTES_MAX).contains(&code.len()));
        let Some(code) = code else { return Ok(self.refused("The provider's answer has no code.")) };
        let site = self.client.site(gathered)?;
        let mut tokens = match self.client.redeem(gathered, &site, (&code, &self.callback()), &pending)? {
            Granted::Tokens(tokens) => tokens,
            Granted::Refused => return Ok(self.refused("The provider does not take its own code any more.")),
            Granted::Failed(why) => return Err(self.client.failed(why)),
        };
        let Some(who) = self.who(gathered, &site, &tokens, &pending)? else {
            return Ok(self.refused("The provider does not say who you are."));
        };
        if matches!(action.by, By::Published(_)) {
            tokens.identity = String::new();
        }
        let session = self.begun(who, tokens);
        let cookie = self.sealed(&session)?;
        Self::note(gathered, || self.beginning(&session, request))?;
        let mut reply = self.redirect(&format!("https://{}{}", self.host, pending.return_to))?;
        add_cookie(&mut reply, cookie);
        add_cookie(&mut reply, self.pending.clear());
        Ok(reply)
    }

    /// Whom the tokens are about. The ID token says it; user info adds an address that the token leaves out.
    fn who(
        &self,
        gathered: &Gathered,
        site: &Site,
        tokens: &Tokens,
        pending: &Pending,
    ) -> Or<Option<Identity>> {
        let told = match &self.client.action.by {
            By::Published(_) => None,
            By::Issuer(_) => {
                let claims = self.client.claims(gathered, site, &tokens.identity, &pending.nonce)?;
                let names = ["name", "nickname", "preferred_username"];
                let Some(who) = claims.and_then(|claims| Identity::read(&claims, "sub", &names)) else {
                    return Ok(None);
                };
                Some(who)
            }
        };
        if let Some(who) = &told
            && (!who.email.is_empty() || site.endpoints.userinfo_endpoint.is_empty())
        {
            return Ok(told);
        }
        match self.client.about(gathered, site, &tokens.access)? {
            // OpenID Connect Core 1.0 section 5.3.2: never another person's.
            About::Person(who)
                if told.as_ref().is_none_or(|told| told.provider_user_id == who.provider_user_id) =>
            {
                Ok(Some(who))
            }
            About::Person(_) => {
                Err(self.client.failed("the user info is of another person than the ID token"))
            }
            About::Refused => Ok(told),
            About::Failed(_) if told.is_some() => Ok(told),
            About::Failed(why) => Err(self.client.failed(why)),
        }
    }

    /// Has a sign-in or sign-out told, once.
    fn note(gathered: &Gathered, make: impl FnOnce() -> SessionNote) -> Or<()> {
        if gathered.noted { Ok(()) } else { Err(Box::new(Flow::Need(Effect::Note(Arc::new(make()))))) }
    }

    fn beginning(&self, session: &Session, request: &Parts) -> SessionNote {
        let agent = request.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        SessionNote::Began {
            session: session.id,
            user: self.user_id(&session.who),
            who: session.who.clone(),
            provider: self.client.action.by.name().to_owned(),
            user_agent: agent.chars().take(USER_AGENT_CHARS_MAX).collect(),
            started_at: session.made_at,
            expires_at: self.expires_at(session),
        }
    }

    fn expires_at(&self, session: &Session) -> i64 {
        session.made_at.saturating_add(self.client.action.lifetimes.max_secs)
    }

    /// `/ngrok/logout`.
    fn sign_out(&self, request: &Parts, gathered: &Gathered) -> Or<Reply> {
        if let Found::Session(session) = self.found(&request.headers) {
            let expires_at = self.expires_at(&session);
            Self::note(gathered, || SessionNote::Ended { session: session.id, expires_at })?;
        }
        let mut text = "You are signed out here. Your provider may still know you.\n".to_owned();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "Sign in again: {LOGIN_PATH}?auth_id={}", self.client.action.auth_id);
        let mut reply = told(StatusCode::OK, text.trim_end());
        add_cookie(&mut reply, self.session.clear());
        add_cookie(&mut reply, self.pending.clear());
        Ok(reply)
    }

    /// A sign-in that proves nothing. The cookie of a sign-in under way is left: it may be another one's.
    fn refused(&self, text: &str) -> Reply {
        let login = format!("{LOGIN_PATH}?auth_id={}", self.client.action.auth_id);
        told(StatusCode::FORBIDDEN, &format!("{text}\nSign in again: {login}"))
    }

    fn redirect(&self, url: &str) -> Or<Reply> {
        let mut reply = told(StatusCode::FOUND, "");
        let location =
            HeaderValue::try_from(url).map_err(|_| self.client.failed("the redirect is no URL"))?;
        reply.headers.insert(LOCATION, location);
        Ok(reply)
    }
}
