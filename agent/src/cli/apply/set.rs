//! A set of declared objects against the account's: what is to be made, changed and deleted, and how that is done.
//!
//! First everything is read and judged, nothing is written. Then the steps are carried out in order; the first refusal
//! stops, and a new run goes on from there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;

use http::{Method, StatusCode};
use serde_json::{Map, Value};

use super::super::client::{Call, Client};
use super::super::env::Failure;
use super::kind::{self, Kind};
use super::live::{self, difference, is_empty, is_same};
use super::manifest::{Document, REFERENCE, references};
use super::show;

/// The API's code for a query parameter that it does not know.
const UNKNOWN_PARAMETER: &str = "ERR_NGROK_231";

/// What is to happen to one declared object.
enum Step {
    Make,
    Change { id: String, fields: Map<String, Value> },
    Keep,
}

/// Documents, the account's objects, and ids that are known so far.
pub(super) struct Set<'a> {
    client: &'a mut Client,
    name: &'a str,
    documents: &'a [Document],
    objects: BTreeMap<&'static str, Vec<Value>>,
    ids: BTreeMap<String, String>,
}

/// The steps, in the order of the documents, and what is to be deleted.
pub(super) struct Plan {
    steps: Vec<Step>,
    surplus: Vec<(&'static Kind, String, String)>,
}

impl Plan {
    /// Whether nothing is to be done.
    pub(super) fn is_empty(&self) -> bool {
        self.surplus.is_empty() && self.steps.iter().all(|step| matches!(step, Step::Keep))
    }

    /// How many objects are to be made, changed, deleted, and stay.
    pub(super) fn counts(&self) -> [usize; 4] {
        let count = |is: fn(&Step) -> bool| self.steps.iter().filter(|step| is(step)).count();
        [
            count(|step| matches!(step, Step::Make)),
            count(|step| matches!(step, Step::Change { .. })),
            self.surplus.len(),
            count(|step| matches!(step, Step::Keep)),
        ]
    }
}

impl<'a> Set<'a> {
    /// Reads the account's objects of the kinds that are declared; with `prune` those of every kind.
    pub(super) fn read(
        client: &'a mut Client,
        name: &'a str,
        documents: &'a [Document],
        prune: bool,
    ) -> Result<Self, Failure> {
        let mut objects = BTreeMap::new();
        for kind in kind::all() {
            if prune || documents.iter().any(|document| document.kind.resource == kind.resource) {
                objects.insert(kind.resource, live::list(client, kind)?);
            }
        }
        Ok(Self { client, name, documents, objects, ids: BTreeMap::new() })
    }

    /// Judges every document; prints what would change.
    pub(super) fn plan(&mut self, prune: bool, has_secrets_file: bool) -> Result<Plan, Failure> {
        let (mut steps, mut problems) = (Vec::new(), Vec::new());
        for document in self.documents {
            match self.step(document, has_secrets_file) {
                Ok(step) => steps.push(step),
                Err(Problem::Here(message)) => {
                    problems.push(format!("{}: {}: {message}", document.place, document.title()));
                }
                Err(Problem::Failed(failure)) => return Err(failure),
            }
        }
        if !problems.is_empty() {
            return Err(Failure::new(problems.join("\n")));
        }
        let surplus = if prune { self.surplus() } else { Vec::new() };
        let plan = Plan { steps, surplus };
        self.show(&plan);
        Ok(plan)
    }

    fn step(&mut self, document: &Document, has_secrets_file: bool) -> Result<Step, Problem> {
        let Some(object) = self.object(document)?.cloned() else {
            if document.kind.has_token() && !has_secrets_file {
                let message = "its token is shown once, when it is made: give --secrets-to FILE for it";
                return Err(Problem::Here(message.into()));
            }
            return Ok(Step::Make);
        };
        let id = live::id(&object).to_owned();
        self.ids.insert(document.title(), id.clone());
        let (wanted, is_whole) = self.wanted(document, Some(&object));
        let mut fields = difference(document.kind, &wanted, &object);
        // The API takes any region and keeps its own.
        fields.remove("region");
        let fixed: Vec<String> = fields
            .keys()
            .filter(|name| document.kind.field(name).is_some_and(|field| !field.is_changeable))
            .cloned()
            .collect();
        for name in fixed {
            let (Some(after), before) =
                (fields.remove(&name), object.get(&name).cloned().unwrap_or_default())
            else {
                continue;
            };
            if !is_spelled_alike(&before, &after) {
                return Err(Problem::Here(format!(
                    "`{name}` of {id} cannot be changed; give the document another name, then --prune deletes the old object"
                )));
            }
        }
        if is_whole && !fields.is_empty() {
            fields = self.judged(document.kind, &id, fields, &object)?;
        }
        Ok(if fields.is_empty() { Step::Keep } else { Step::Change { id, fields } })
    }

    /// Those fields that the API would really make different: it writes some values in a form of its own.
    fn judged(
        &mut self,
        kind: &Kind,
        id: &str,
        fields: Map<String, Value>,
        object: &Value,
    ) -> Result<Map<String, Value>, Problem> {
        let mut call = Call::plain(Method::PATCH, format!("{}?dry_run=true", live::path(kind, id)));
        call.body = Some(Value::Object(fields.clone()).to_string());
        let after = match self.client.try_call(&call).map_err(Problem::Failed)? {
            Ok(answer) => answer.json().map_err(Problem::Failed)?,
            // An older control judges nothing beforehand.
            Err(refused) if refused.text.contains(UNKNOWN_PARAMETER) => return Ok(fields),
            Err(refused) => return Err(Problem::Here(refused.text)),
        };
        let is_new = |name: &str| {
            let field = kind.field(name);
            let of = |object: &Value| field.and_then(|field| live::value(field, object)).unwrap_or_default();
            !is_same(&of(object), &of(&after))
        };
        Ok(fields.into_iter().filter(|(name, _)| is_new(name)).collect())
    }

    /// The object that a document declares, if it is there.
    fn object(&self, document: &Document) -> Result<Option<&Value>, Problem> {
        let objects = self.objects.get(document.kind.resource).map_or(&[][..], Vec::as_slice);
        if let Some(id) = &document.id {
            let found = objects.iter().find(|object| live::id(object) == id);
            let missing = || {
                Problem::Here(format!("there is no object {id}; without `id` the document makes a new one"))
            };
            return found.map(Some).ok_or_else(missing);
        }
        let is_it = |object: &&Value| {
            if document.kind.has_metadata() {
                live::label(object) == Some((self.name, document.name.as_str()))
            } else {
                document.spec.get("name").is_some_and(|name| object.get("name") == Some(name))
            }
        };
        let found: Vec<&Value> = objects.iter().filter(is_it).collect();
        match found.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(*one)),
            several => {
                let ids: Vec<&str> = several.iter().map(|object| live::id(object)).collect();
                Err(Problem::Here(format!(
                    "several objects carry its label, as when two apply at once: {}; delete all but one",
                    ids.join(", ")
                )))
            }
        }
    }

    /// The fields that a document wants, references replaced; false: some of them are not known yet.
    fn wanted(&self, document: &Document, object: Option<&Value>) -> (Map<String, Value>, bool) {
        let mut is_whole = true;
        let mut wanted: Map<String, Value> = document
            .spec
            .iter()
            .map(|(name, value)| (name.clone(), self.resolved(value, &mut is_whole)))
            .collect();
        if document.id.is_none() && document.kind.has_metadata() {
            let now = object.and_then(|object| object.get("metadata")?.as_str()).map(live::unlabelled);
            let given = wanted.get("metadata").and_then(Value::as_str);
            let labelled = live::labelled(given.or(now).unwrap_or_default(), self.name, &document.name);
            wanted.insert("metadata".into(), labelled.into());
        }
        (wanted, is_whole)
    }

    fn resolved(&self, value: &Value, is_whole: &mut bool) -> Value {
        match value {
            Value::String(text) if text.contains(REFERENCE) => {
                let mut titles = references(text);
                // The longest first: one name may begin another.
                titles.sort_by_key(|title| std::cmp::Reverse(title.len()));
                let mut text = text.clone();
                for title in titles {
                    match self.ids.get(title) {
                        Some(id) => text = text.replace(&format!("{REFERENCE}{title}"), id),
                        None => *is_whole = false,
                    }
                }
                Value::String(text)
            }
            Value::Array(items) => items.iter().map(|item| self.resolved(item, is_whole)).collect(),
            Value::Object(fields) => {
                let fields =
                    fields.iter().map(|(name, value)| (name.clone(), self.resolved(value, is_whole)));
                Value::Object(fields.collect())
            }
            other => other.clone(),
        }
    }

    /// Objects of the set that no document declares.
    fn surplus(&self) -> Vec<(&'static Kind, String, String)> {
        let mut surplus = Vec::new();
        // What refers to others stands behind them in most cases.
        for kind in kind::all().iter().rev() {
            for object in self.objects.get(kind.resource).into_iter().flatten() {
                let Some((set, name)) = live::label(object) else { continue };
                let is_declared = |document: &Document| {
                    document.kind.resource == kind.resource
                        && (document.name == name || document.id.as_deref() == Some(live::id(object)))
                };
                if set == self.name && !self.documents.iter().any(is_declared) {
                    surplus.push((kind, name.to_owned(), live::id(object).to_owned()));
                }
            }
        }
        surplus
    }

    fn show(&self, plan: &Plan) {
        for (document, step) in self.documents.iter().zip(&plan.steps) {
            match step {
                Step::Keep => {}
                Step::Make => {
                    println!("+ {}", document.title());
                    for (name, value) in document.spec.iter().filter(|(_, value)| !is_empty(value)) {
                        print!("{}", show::field(document.kind, name, None, value));
                    }
                }
                Step::Change { id, fields } => {
                    println!("~ {} {id}", document.title());
                    let objects = self.objects.get(document.kind.resource).into_iter().flatten();
                    let object = objects.into_iter().find(|object| live::id(object) == id);
                    for (name, value) in fields {
                        let field = document.kind.field(name);
                        let before =
                            object.and_then(|object| field.and_then(|field| live::value(field, object)));
                        print!(
                            "{}",
                            show::field(document.kind, name, Some(&before.unwrap_or_default()), value)
                        );
                    }
                }
            }
        }
        for (kind, name, id) in &plan.surplus {
            println!("- {}/{name} {id}", kind.name);
        }
    }

    /// Carries a plan out.
    pub(super) fn carry_out(&mut self, plan: &Plan, mut secrets: Option<File>) -> Result<(), Failure> {
        let total: usize = plan.counts().iter().take(3).sum();
        let mut done = 0;
        for (document, step) in self.documents.iter().zip(&plan.steps) {
            let result = match step {
                Step::Keep => continue,
                Step::Make => self.make(document, secrets.as_mut()),
                Step::Change { id, .. } => self.change(document, id),
            };
            result.map_err(|failure| partial(&document.title(), &failure, done, total))?;
            done += 1;
        }
        let mut left: Vec<_> = plan.surplus.iter().collect();
        while !left.is_empty() {
            let before = left.len();
            let mut refusals = Vec::new();
            let mut waiting = Vec::new();
            for surplus in left {
                let (kind, name, id) = surplus;
                let call = Call::plain(Method::DELETE, live::path(kind, id));
                match self.client.try_call(&call)? {
                    Err(refused) if refused.status != StatusCode::NOT_FOUND => {
                        refusals.push(format!("{}/{name} {id}: {}", kind.name, refused.text));
                        waiting.push(surplus);
                    }
                    _ => done += 1,
                }
            }
            if waiting.len() == before {
                return Err(partial("prune", &Failure::new(refusals.join("\n")), done, total));
            }
            left = waiting;
        }
        Ok(())
    }

    fn make(&mut self, document: &Document, secrets: Option<&mut File>) -> Result<(), Failure> {
        let (wanted, _) = self.wanted(document, None);
        let mut call = Call::plain(Method::POST, format!("/{}", document.kind.resource));
        call.body = Some(Value::Object(wanted).to_string());
        let made = match self.client.try_call(&call)? {
            Ok(answer) => answer.json()?,
            Err(refused) if refused.status == StatusCode::CONFLICT => {
                let hint =
                    "an object that is there already is taken over by writing its `id` into the document";
                return Err(Failure::new(format!("{}\n{hint}", refused.text)));
            }
            Err(refused) => return Err(refused.into()),
        };
        let id = live::id(&made).to_owned();
        if let (Some(file), Some(token)) = (secrets, made.get("token").and_then(Value::as_str)) {
            let line = format!("{} {id} {token}\n", document.title());
            let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_all());
            written.map_err(|error| {
                Failure::new(format!("{id} was made, but its token could not be kept: {error}"))
            })?;
        }
        self.ids.insert(document.title(), id);
        Ok(())
    }

    /// Reads the object again, and changes it only if it is still what was read.
    fn change(&mut self, document: &Document, id: &str) -> Result<(), Failure> {
        let path = live::path(document.kind, id);
        let answer = self.client.call(&Call::plain(Method::GET, path.clone()))?;
        let tag = answer.headers.get(http::header::ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        let object = answer.json()?;
        let (wanted, _) = self.wanted(document, Some(&object));
        let mut fields = difference(document.kind, &wanted, &object);
        fields.retain(|name, _| {
            name != "region" && document.kind.field(name).is_some_and(|field| field.is_changeable)
        });
        if fields.is_empty() {
            return Ok(());
        }
        let mut call = Call::plain(Method::PATCH, path);
        call.body = Some(Value::Object(fields).to_string());
        call.if_match = tag;
        match self.client.try_call(&call)? {
            Ok(_) => Ok(()),
            Err(refused) if refused.status == StatusCode::PRECONDITION_FAILED => Err(Failure::new(format!(
                "{id} was changed by another at the same time, and was left as it is; run again"
            ))),
            Err(refused) => Err(refused.into()),
        }
    }
}

/// Why a document has no step.
enum Problem {
    /// Something of the document.
    Here(String),
    /// The API cannot be asked.
    Failed(Failure),
}

/// What was done before a refusal, and how to go on.
fn partial(what: &str, failure: &Failure, done: usize, total: usize) -> Failure {
    let left = total.saturating_sub(done);
    Failure::plain(format!(
        "{failure}ERROR:  {what} failed: {done} of {total} changes were made, {left} are left; a new run goes on from there\n"
    ))
}

/// Whether texts differ in case or in space at their ends alone, as names and PEM do.
fn is_spelled_alike(one: &Value, other: &Value) -> bool {
    match (one.as_str(), other.as_str()) {
        (Some(one), Some(other)) => one.trim().eq_ignore_ascii_case(other.trim()),
        _ => false,
    }
}
