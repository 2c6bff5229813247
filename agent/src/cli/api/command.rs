//! The commands of `ebbgate api`, made from the document: a subcommand for each resource and verb, a flag for each field.
//!
//! And back: what was written on the command line as a call. Knows no resource.

use std::io::Read as _;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use http::Method;
use serde_json::{Map, Value};

use super::super::client::{Call, encoded};
use super::super::document::{Field, Kind, Operation, operations};
use super::super::env::Failure;

/// Longest document read from a file or standard input, in bytes; control takes less.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;

const DATA: &str = "data";
const CLEAR: &str = "clear";
/// Of lists: every page.
pub(super) const ALL: &str = "all";

/// Adds the resources as subcommands.
pub(super) fn with_resources(mut command: Command) -> Command {
    let mut firsts: Vec<&'static Operation> = Vec::new();
    for operation in operations() {
        if !firsts.iter().any(|first| first.resource == operation.resource) {
            firsts.push(operation);
        }
    }
    for Operation { resource, words: [word, _], .. } in firsts {
        let mut group = Command::new(word.as_str())
            .about(format!("Verbs of {resource}"))
            .subcommand_required(true)
            .arg_required_else_help(true);
        if word != resource {
            group = group.alias(resource.as_str());
        }
        for operation in operations().iter().filter(|operation| operation.resource == *resource) {
            group = group.subcommand(verb(operation));
        }
        command = command.subcommand(group);
    }
    command.subcommand_required(true).arg_required_else_help(true)
}

fn verb(operation: &'static Operation) -> Command {
    let mut command = Command::new(operation.words[1].as_str()).about(operation.about.clone());
    for step in &operation.steps {
        let arg = Arg::new(step.argument.as_str()).value_name(step.shown.as_str()).required(true);
        command = command.arg(arg.help(format!("Its {}", step.name)));
    }
    for field in operation.query.iter().chain(&operation.headers) {
        command = with_field(command, field);
    }
    if operation.list_key.is_some() {
        let all = Arg::new(ALL).long("all").action(ArgAction::SetTrue);
        command = command.arg(all.help("Every page, one after the other"));
    }
    if let Some(body) = &operation.body {
        let data = Arg::new(DATA).long("data").value_name("JSON");
        let help = "The body as JSON, `@FILE`, or `-` for standard input; flags add to it";
        command = command.arg(data.help(help));
        let clear = Arg::new(CLEAR).long("clear").value_name("FIELD").action(ArgAction::Append);
        command = command.arg(clear.help("Send this field as null, which empties it; may be repeated"));
        for field in &body.fields {
            command = with_field(command, field);
        }
    }
    command
}

fn with_field(command: Command, field: &'static Field) -> Command {
    let [flag, file_flag] = &field.flags;
    let need = if field.is_required { " [needed]" } else { "" };
    let arg = Arg::new(field.name.as_str()).long(flag.as_str()).help(format!("{}{need}", field.about));
    let typed = |arg: Arg, kind: &'static Kind| match kind {
        Kind::Words(words) => {
            let words = words.iter().map(String::as_str);
            arg.value_name("WORD").value_parser(PossibleValuesParser::new(words))
        }
        Kind::Number => arg.value_name("N").value_parser(clap::value_parser!(i64)),
        Kind::Json => arg.value_name("JSON"),
        _ => arg.value_name("TEXT").allow_hyphen_values(true),
    };
    match &field.kind {
        Kind::Bool => {
            let words = PossibleValuesParser::new(["true", "false"]);
            let arg =
                arg.num_args(0..=1).require_equals(true).default_missing_value("true").value_parser(words);
            command.arg(arg)
        }
        Kind::List(inner) => {
            let again = format!("{}; may be repeated{need}", field.about.trim_end_matches('.'));
            command.arg(typed(arg, inner).action(ArgAction::Append).help(again))
        }
        Kind::Document => {
            let from_file = Arg::new(file_flag.as_str())
                .long(file_flag.as_str())
                .value_name("FILE")
                .conflicts_with(field.name.as_str())
                .help(format!("`--{flag}` from a file, or from standard input with `-`"));
            command.arg(arg.value_name("TEXT").allow_hyphen_values(true)).arg(from_file)
        }
        kind => command.arg(typed(arg, kind)),
    }
}

/// What was chosen: the operation and what was written for it.
pub(super) struct Chosen {
    pub(super) operation: &'static Operation,
    matches: ArgMatches,
}

impl Chosen {
    /// Reads the two subcommands; None where there are none, which clap has refused.
    pub(super) fn of(matches: &ArgMatches) -> Option<Self> {
        let (resource, inner) = matches.subcommand()?;
        let (verb, inner) = inner.subcommand()?;
        let is_it =
            |one: &&Operation| (resource == one.words[0] || resource == one.resource) && verb == one.words[1];
        Some(Self { operation: operations().iter().find(is_it)?, matches: inner.clone() })
    }

    /// Whether every page is wanted.
    pub(super) fn wants_all(&self) -> bool {
        self.operation.list_key.is_some() && self.matches.get_flag(ALL)
    }

    /// The call.
    pub(super) fn call(&self) -> Result<Call, Failure> {
        let operation = self.operation;
        let mut target = operation.path.clone();
        for step in &operation.steps {
            let value = self.matches.get_one::<String>(&step.argument).map_or("", String::as_str);
            target = target.replace(&format!("{{{}}}", step.name), &encoded(value));
        }
        let mut query = Vec::new();
        for field in &operation.query {
            let values = match self.value(field)? {
                None => continue,
                Some(Value::Array(values)) => values,
                Some(value) => vec![value],
            };
            let words =
                values.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            query.extend(words.map(|word| format!("{}={}", field.name, encoded(&word))));
        }
        if !query.is_empty() {
            target = format!("{target}?{}", query.join("&"));
        }
        let mut call = Call::plain(operation.method.clone(), target);
        for field in &operation.headers {
            if let (true, Some(Value::String(value))) =
                (field.name.eq_ignore_ascii_case("if-match"), self.value(field)?)
            {
                call.if_match = Some(value);
            }
        }
        call.body = self.body()?;
        Ok(call)
    }

    fn body(&self) -> Result<Option<String>, Failure> {
        let Some(body) = &self.operation.body else { return Ok(None) };
        let data = self.matches.get_one::<String>(DATA).map(|data| read_data(data)).transpose()?;
        let mut given = Map::new();
        let mut put = |name: &str, value: Value| -> Result<(), Failure> {
            let (outer, inner) =
                name.split_once('.').map_or((name, None), |(outer, inner)| (outer, Some(inner)));
            let twice = || Failure::new(format!("the field `{name}` is given twice"));
            match inner {
                None => given.insert(outer.to_owned(), value).map_or(Ok(()), |_| Err(twice())),
                Some(inner) => match given.entry(outer).or_insert_with(|| Value::Object(Map::new())) {
                    Value::Object(object) => {
                        object.insert(inner.to_owned(), value).map_or(Ok(()), |_| Err(twice()))
                    }
                    _ => Err(twice()),
                },
            }
        };
        for field in &body.fields {
            if let Some(value) = self.value(field)? {
                put(&field.name, value)?;
            }
        }
        for name in self.matches.get_many::<String>(CLEAR).into_iter().flatten() {
            let name = name.trim_start_matches("--").replace('-', "_");
            let is_known = |field: &Field| field.name.split('.').next() == Some(&name);
            if !body.fields.iter().any(is_known) {
                return Err(Failure::new(format!("--clear: this call has no field `{name}`")));
            }
            put(&name, Value::Null)?;
        }
        match data {
            // As it was written: control says what is wrong with it, and where.
            Some(text) if given.is_empty() => Ok(Some(text)),
            Some(text) => {
                let mut whole: Map<String, Value> = serde_json::from_str(&text)
                    .map_err(|error| Failure::new(format!("--data is not a JSON object: {error}")))?;
                if let Some(name) = given.keys().find(|name| whole.contains_key(*name)) {
                    return Err(Failure::new(format!("the field `{name}` is in --data and given by a flag")));
                }
                whole.extend(given);
                Ok(Some(Value::Object(whole).to_string()))
            }
            None if given.is_empty() && !body.is_required => Ok(None),
            None if given.is_empty() && self.operation.method == Method::PATCH => {
                Err(Failure::new("the change names no field; give flags or --data (see --help)"))
            }
            None => Ok(Some(Value::Object(given).to_string())),
        }
    }

    /// What was written for a field.
    fn value(&self, field: &Field) -> Result<Option<Value>, Failure> {
        let [flag, file_flag] = &field.flags;
        if field.kind == Kind::Document
            && let Some(file) = self.matches.get_one::<String>(file_flag)
        {
            return read_file(file).map(|text| Some(text.into()));
        }
        if field.kind == Kind::Number {
            return Ok(self.matches.get_one::<i64>(&field.name).map(|number| (*number).into()));
        }
        let json = |text: &String| {
            serde_json::from_str::<Value>(text)
                .map_err(|error| Failure::new(format!("--{flag} is not JSON: {error}")))
        };
        let one = || self.matches.get_one::<String>(&field.name);
        Ok(match &field.kind {
            Kind::List(inner) => match self.matches.get_many::<String>(&field.name) {
                None => None,
                Some(all) if **inner == Kind::Json => {
                    Some(Value::Array(all.map(json).collect::<Result<_, _>>()?))
                }
                Some(all) => Some(all.map(|text| Value::from(text.as_str())).collect()),
            },
            Kind::Json => one().map(json).transpose()?,
            Kind::Bool => one().map(|text| (text == "true").into()),
            _ => one().map(|text| text.as_str().into()),
        })
    }
}

/// JSON as it stands, `@FILE`, or `-`.
fn read_data(data: &str) -> Result<String, Failure> {
    match data.strip_prefix('@') {
        Some(file) => read_file(file),
        None if data == "-" => read_file(data),
        None => Ok(data.to_owned()),
    }
}

fn read_file(file: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if file == "-" {
        std::io::stdin().take(DOCUMENT_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(DOCUMENT_BYTES_MAX + 1).read_to_string(&mut text))
    };
    let bytes = read.map_err(|error| Failure::new(format!("cannot read {file}: {error}")))?;
    if u64::try_from(bytes).is_ok_and(|bytes| bytes <= DOCUMENT_BYTES_MAX) {
        return Ok(text);
    }
    Err(Failure::new(format!("{file} is longer than {DOCUMENT_BYTES_MAX} bytes")))
}
