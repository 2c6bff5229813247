//! `/traffic_policy/{check,explain,test,diff}`: what a policy would mean, judged by the crate that edges use, with the caller's own
//! objects. Nothing is stored. Ours: not published.
//!
//! A secret that a policy names must be there; its value is never read, a text stands in its place.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::response::Response;
use ebbgate_model::{Binding, EndpointUrl, ErrorCode, IpPolicyRule as Rule, TrafficPolicy};
use ebbgate_policy::diff::{Comparison, Side, explain_record};
use ebbgate_policy::explain::expect::NamedCase;
use ebbgate_policy::explain::{CaseText, explain};
use ebbgate_policy::{
    CheckContext, Checked, Diagnostic, Engine, Owner, References, SECRETS_MAX, SecretValue, check, lint, text,
};
use http::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Semaphore;
use utoipa::openapi::Required;
use utoipa::openapi::path::HttpMethod;
use utoipa::{PartialSchema, ToSchema};

use super::body::JsonText;
use super::body_schema::requiring;
use super::call::{Call, NoQuery};
use super::endpoints::{POLICY_REFERENCES_MAX, refused};
use super::failure::ApiError;
use super::given::{Given, body};
use super::operation::Operation;
use super::policy_secrets;
use super::reply::json;
use super::routes::Routes;
use super::strict::Object;
use crate::record::{self, CertificateAuthority, IpPolicy, IpPolicyRule};

/// Most cases of one call.
const CASES_MAX: usize = 50;
/// Most work of all records of one call, in the units of expressions: about two seconds.
const DIFF_UNITS_MAX: u64 = 20_000_000;
/// Calls that compute at one time; others wait their turn.
static WORKERS: Semaphore = Semaphore::const_new(2);

body! {
    /// Body of `POST /traffic_policy/check`.
    Check as "TrafficPolicyCheck" {
        /// URL of the endpoint that the policy is for.
        url: String,
        /// Kind of endpoint: at `agent`, the agent serves what no action ends; at `cloud`, nothing does. `cloud` unless given.
        owner: String,
        /// The policy as text, YAML or JSON.
        traffic_policy: String,
    }
}

body! {
    /// Body of `POST /traffic_policy/explain`.
    Explain as "TrafficPolicyExplain" {
        /// URL of the endpoint that the policy is for.
        url: String,
        /// `cloud` or `agent`.
        owner: String,
        /// The policy as text, YAML or JSON.
        traffic_policy: String,
        /// The connection and the request as text, YAML or JSON, with the fields of `given` in a file of cases.
        given: String,
        /// Instead of `given`: a traffic event as text, JSON, of the real connection or request.
        record: String,
    }
}

body! {
    /// Body of `POST /traffic_policy/test`.
    Test as "TrafficPolicyTest" {
        /// URL of the endpoint that the policy is for.
        url: String,
        /// `cloud` or `agent`.
        owner: String,
        /// The policy as text, YAML or JSON.
        traffic_policy: String,
        /// A list of `name`, `given` and `expect` as text, YAML or JSON: `cases` of a file of cases.
        cases: String,
    }
}

body! {
    /// Body of `POST /traffic_policy/diff`.
    Diff as "TrafficPolicyDiff" {
        /// URL of the endpoint that the policies are for.
        url: String,
        /// `cloud` or `agent`.
        owner: String,
        /// The policy in force as text.
        old: String,
        /// The new policy as text.
        new: String,
        /// Traffic events, one JSON object a line.
        records: String,
    }
}

/// A defect of a policy, or a doubt about it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TrafficPolicyDiagnostic)]
struct DiagnosticView {
    /// The published number, as `ERR_NGROK_2203`.
    code: String,
    /// One sentence.
    message: String,
    /// As `on_http_request[0].actions[1].config.url`; empty where the document itself is meant.
    path: String,
    /// Line of the text, from 1; null where the document itself is meant.
    line: Option<u32>,
    /// Column of the line, from 1; null where the document itself is meant.
    column: Option<u32>,
    /// What to write instead.
    hint: Option<String>,
}

/// What saving a policy would say, and lint beyond it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TrafficPolicyJudgement)]
struct CheckView {
    /// Whether it may be saved.
    valid: bool,
    /// Why it may not be saved.
    errors: Vec<DiagnosticView>,
    warnings: Vec<DiagnosticView>,
}

/// What a policy does with one case.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TrafficPolicyExplanation)]
struct ExplainView {
    /// The explanation in lines, as the command prints it.
    text: String,
    /// The same for programs: `outcome`, `status`, `to`, `code`, `decided_by`, `phases` with each condition and the values it read.
    explanation: Value,
}

/// How one case came out.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TrafficPolicyCaseResult)]
struct CaseView {
    name: String,
    /// Whether all came out as the case expects.
    passed: bool,
    /// What differs; empty where it passed.
    differences: Vec<String>,
    /// The explanation of a case that failed; empty where it passed.
    text: String,
}

/// How all cases came out.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TrafficPolicyTestResult)]
struct TestView {
    /// Cases that passed.
    passed: usize,
    /// Cases that failed.
    failed: usize,
    /// Each case, in the order of the document.
    cases: Vec<CaseView>,
}

/// What would come out otherwise.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TrafficPolicyDifference)]
struct DiffView {
    /// The table, as the command prints it.
    text: String,
    /// The same for programs: `compared`, `changed`, `unknown`, `same`, `left_out`, `groups`.
    difference: Value,
}

impl From<&Diagnostic> for DiagnosticView {
    fn from(diagnostic: &Diagnostic) -> Self {
        Self {
            code: diagnostic.code.to_string(),
            message: diagnostic.message.clone(),
            path: diagnostic.path.clone(),
            line: diagnostic.line,
            column: diagnostic.column,
            hint: diagnostic.hint.clone(),
        }
    }
}

/// The four operations.
pub(super) fn routes() -> Routes {
    const POLICY: &str = r#"{"url": "https://api.example.com", "traffic_policy": "on_http_request: [{actions: [{type: deny}]}]""#;
    let example = |more: &str| format!("{POLICY}{more}}}");
    let operation = |verb: &str, summary: &str| {
        Operation::new("traffic_policy", verb, summary)
            .description("Ours. Stores nothing; objects that the policy names are looked up in the account.")
    };
    let check_example = example("");
    let explain_example = example(r#", "given": "{method: DELETE}""#);
    let test_example = example(r#", "cases": "[{name: closed, expect: {status: 403}}]""#);
    let diff_example = r#"{"url": "https://api.example.com", "old": "on_http_request: [{actions: [{type: deny}]}]", "new": "on_http_request: [{actions: [{type: deny}]}]", "records": ""}"#;
    Routes::new()
        .add(
            HttpMethod::Post,
            "/traffic_policy/check",
            check_policy,
            operation("check", "Judge a traffic policy")
                .takes(
                    Check::name().into_owned(),
                    requiring(Check::schema(), &["url", "traffic_policy"]),
                    Required::True,
                    &check_example,
                )
                .answers::<CheckView>("200", "All errors and warnings."),
        )
        .add(
            HttpMethod::Post,
            "/traffic_policy/explain",
            explain_case,
            operation("explain", "Say what a traffic policy does with a request, and why")
                .takes(
                    Explain::name().into_owned(),
                    requiring(Explain::schema(), &["url", "traffic_policy"]),
                    Required::True,
                    &explain_example,
                )
                .answers::<ExplainView>(
                    "200",
                    "Each condition with what it read, each action with what came of it.",
                ),
        )
        .add(
            HttpMethod::Post,
            "/traffic_policy/test",
            test_cases,
            operation("test", "Run cases against a traffic policy")
                .takes(
                    Test::name().into_owned(),
                    requiring(Test::schema(), &["url", "traffic_policy", "cases"]),
                    Required::True,
                    &test_example,
                )
                .answers::<TestView>("200", "How each case came out."),
        )
        .add(
            HttpMethod::Post,
            "/traffic_policy/diff",
            diff_policies,
            operation("diff", "Say what a new traffic policy would do otherwise with recorded traffic")
                .takes(
                    Diff::name().into_owned(),
                    requiring(Diff::schema(), &["url", "old", "new"]),
                    Required::True,
                    diff_example,
                )
                .answers::<DiffView>("200", "What changes, and what cannot be told."),
        )
}

/// A text that must be there.
fn required(field: &str, given: &Given<String>) -> Result<String, ApiError> {
    let text = given.or_default();
    if text.is_empty() { Err(ApiError::value(field, "it is required")) } else { Ok(text) }
}

/// The endpoint that a policy is for.
fn surroundings(url: &Given<String>, owner: &Given<String>) -> Result<(EndpointUrl, CheckContext), ApiError> {
    let text = required("url", url)?;
    let url: EndpointUrl =
        text.parse().map_err(|error| ApiError::value("url", format_args!("`{text}`: {error}")))?;
    let owner = match owner.or_default().as_str() {
        "" | "cloud" => Owner::Cloud,
        "agent" => Owner::Agent,
        other => {
            return Err(ApiError::value("owner", format_args!("it is `{other}`; it must be cloud or agent")));
        }
    };
    let binding = if url.host().is_internal() { Binding::Internal } else { Binding::Public };
    let scheme = url.scheme();
    Ok((url, CheckContext { scheme, binding, owner }))
}

/// The objects of the account that a policy names, and what to say of those it does not have.
async fn references(call: &Call, checked: &Checked) -> Result<(References, Vec<Diagnostic>), ApiError> {
    let store = &*call.app.store;
    let mut found = References::default();
    let mut missing = Vec::new();
    let authorities: BTreeSet<_> = checked.authorities().iter().copied().collect();
    let ip_policies: BTreeSet<_> = checked.ip_policies().iter().copied().collect();
    let (named, secrets) = (authorities.len() + ip_policies.len(), checked.secrets());
    if named > POLICY_REFERENCES_MAX || secrets.len() > SECRETS_MAX {
        let message = format!(
            "the policy names {named} certificate authorities and IP policies, and {} secrets; at most {POLICY_REFERENCES_MAX} and {SECRETS_MAX} are allowed",
            secrets.len()
        );
        return Ok((found, vec![defect(18002, message)]));
    }
    for id in authorities {
        match record::load::<CertificateAuthority>(store, call.account, id).await? {
            Some(stored) => drop(found.authorities.insert(id, stored.record.ca_pem)),
            None => missing.push(defect(228, format!("this account has no certificate authority {id}"))),
        }
    }
    for id in &ip_policies {
        match record::load::<IpPolicy>(store, call.account, *id).await? {
            Some(_) => drop(found.ip_policies.insert(*id, Vec::new())),
            None => missing.push(defect(229, format!("this account has no IP policy {id}"))),
        }
    }
    if !found.ip_policies.is_empty() {
        let rules = record::list::<IpPolicyRule>(store, call.account, None, None).await?;
        for rule in rules.items.iter().map(|stored| &stored.record) {
            if let Some(rules) = found.ip_policies.get_mut(&rule.policy) {
                rules.push(Rule { cidr: rule.cidr, action: rule.action });
            }
        }
    }
    for name in secrets {
        if policy_secrets::find(call, name).await?.is_some() {
            found.secrets.insert(name.clone(), SecretValue::new("(secret)"));
        }
    }
    missing.extend(checked.secrets_missing(|name| found.secrets.contains_key(name)));
    Ok((found, missing))
}

fn defect(code: u32, message: String) -> Diagnostic {
    Diagnostic {
        code: ErrorCode::new(code),
        message,
        path: String::new(),
        line: None,
        column: None,
        hint: None,
    }
}

/// A policy ready to run.
struct Ready {
    policy: TrafficPolicy,
    engine: Arc<Engine>,
}

impl Ready {
    fn side(&self) -> Side<'_> {
        Side { policy: &self.policy, engine: &self.engine }
    }
}

async fn ready(call: &Call, field: &str, text: &Given<String>, cx: CheckContext) -> Result<Ready, ApiError> {
    let checked = check(&required(field, text)?, &cx).map_err(|defects| refused(&defects))?;
    let (references, missing) = references(call, &checked).await?;
    if !missing.is_empty() {
        return Err(refused(&missing));
    }
    let policy = checked.policy.clone();
    compute(move || Engine::compile(&checked.policy, &references))
        .await?
        .map(|engine| Ready { policy, engine: Arc::new(engine) })
        .map_err(|defects| refused(&defects))
}

/// Computes beside what serves others.
async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    let _turn = WORKERS.acquire().await.map_err(|error| ApiError::internal(&error))?;
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal(&error))
}

/// A text of YAML or JSON as a value of a type.
fn read<T: DeserializeOwned>(field: &str, given: &Given<String>) -> Result<T, ApiError> {
    let text = required(field, given)?;
    let plain = text::plain(&text).ok_or_else(|| ApiError::value(field, "it is neither JSON nor YAML"))?;
    serde_json::from_value(plain).map_err(|error| ApiError::value(field, error))
}

async fn check_policy(call: Call, _: NoQuery, JsonText(text): JsonText) -> Result<Response, ApiError> {
    let body: Check = Object::parse(&text)?.read()?;
    let (_, cx) = surroundings(&body.url, &body.owner)?;
    let text = required("traffic_policy", &body.traffic_policy)?;
    let (checked, text) = compute(move || (check(&text, &cx), text)).await?;
    let (errors, warnings) = match checked {
        Err(errors) => (errors, Vec::new()),
        Ok(checked) => {
            let (_, missing) = references(&call, &checked).await?;
            let mut warnings = checked.warnings;
            warnings.extend(compute(move || lint::lint(&text, &cx)).await?);
            (missing, warnings)
        }
    };
    let view = |all: &[Diagnostic]| all.iter().map(DiagnosticView::from).collect();
    let valid = errors.is_empty();
    Ok(json(StatusCode::OK, &CheckView { valid, errors: view(&errors), warnings: view(&warnings) }))
}

async fn explain_case(call: Call, _: NoQuery, JsonText(text): JsonText) -> Result<Response, ApiError> {
    let body: Explain = Object::parse(&text)?.read()?;
    let (url, cx) = surroundings(&body.url, &body.owner)?;
    let record = body.record.or_default();
    if !record.trim().is_empty() {
        if !body.given.or_default().trim().is_empty() {
            return Err(ApiError::value("record", "it stands instead of `given`; send one of them"));
        }
        let Ready { policy, engine } = ready(&call, "traffic_policy", &body.traffic_policy, cx).await?;
        let view = compute(move || {
            let refused = |why: &dyn std::fmt::Display| ApiError::value("record", why);
            let explained = explain_record(&engine, &policy, (&url, cx.owner), &record);
            let explained = explained.map_err(|error| refused(&error))?;
            let explained = explained.ok_or_else(|| refused(&format_args!("it is not of {url}")))?;
            Ok::<_, ApiError>(ExplainView { text: explained.text(), explanation: explained.json() })
        });
        return Ok(json(StatusCode::OK, &view.await??));
    }
    let given: CaseText = if body.given.or_default().trim().is_empty() {
        CaseText::default()
    } else {
        read("given", &body.given)?
    };
    let case = given.read(&url).map_err(|error| ApiError::value("given", error))?;
    let Ready { policy, engine } = ready(&call, "traffic_policy", &body.traffic_policy, cx).await?;
    let view = compute(move || {
        let explanation = explain(&engine, &case);
        ExplainView { text: explanation.text(&policy), explanation: explanation.json(&policy) }
    });
    Ok(json(StatusCode::OK, &view.await?))
}

async fn test_cases(call: Call, _: NoQuery, JsonText(text): JsonText) -> Result<Response, ApiError> {
    let body: Test = Object::parse(&text)?.read()?;
    let (url, cx) = surroundings(&body.url, &body.owner)?;
    let cases: Vec<NamedCase> = read("cases", &body.cases)?;
    if cases.is_empty() || cases.len() > CASES_MAX {
        return Err(ApiError::value(
            "cases",
            format_args!("there are {}; 1 to {CASES_MAX} are run", cases.len()),
        ));
    }
    let mut prepared = Vec::new();
    for (index, case) in cases.into_iter().enumerate() {
        let field = format!("cases[{index}]");
        case.expect.check().map_err(|message| ApiError::value(&field, message))?;
        let given =
            case.given.read(&url).map_err(|error| ApiError::value(&field, format_args!("given.{error}")))?;
        prepared.push((case, given));
    }
    let Ready { policy, engine } = ready(&call, "traffic_policy", &body.traffic_policy, cx).await?;
    let view = compute(move || {
        let cases = prepared.into_iter().map(|(case, given)| {
            let explanation = explain(&engine, &given);
            let differences = case.expect.differences(&explanation);
            let passed = differences.is_empty();
            let text = if passed { String::new() } else { explanation.text(&policy) };
            CaseView { name: case.name, passed, differences, text }
        });
        let cases: Vec<CaseView> = cases.collect();
        let failed = cases.iter().filter(|case| !case.passed).count();
        TestView { passed: cases.len() - failed, failed, cases }
    });
    Ok(json(StatusCode::OK, &view.await?))
}

async fn diff_policies(call: Call, _: NoQuery, JsonText(text): JsonText) -> Result<Response, ApiError> {
    let body: Diff = Object::parse(&text)?.read()?;
    let (url, cx) = surroundings(&body.url, &body.owner)?;
    let old = ready(&call, "old", &body.old, cx).await?;
    let new = ready(&call, "new", &body.new, cx).await?;
    let records = body.records.or_default();
    let view = compute(move || {
        let (old, new) = (old.side(), new.side());
        let mut comparison = Comparison::new(&url, cx.owner, old, new).at_most(DIFF_UNITS_MAX);
        for (index, line) in records.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let number = index + 1;
            comparison
                .add(line)
                .map_err(|error| ApiError::value("records", format_args!("line {number}: {error}")))?;
        }
        Ok::<_, ApiError>(DiffView { text: comparison.text(), difference: comparison.json() })
    });
    Ok(json(StatusCode::OK, &view.await??))
}
