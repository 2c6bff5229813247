//! Targets of rules: which values of a message a rule looks at.

use std::borrow::Cow;

use regex::bytes::{Regex, RegexBuilder};
use zentinel_modsec::parser::{Selection, VariableName, VariableSpec};

use crate::error::EngineError;
use crate::found::Pairs;
use crate::message::{Message, Response};
use crate::tx::Tx;

/// A variable, or part of it.
pub(crate) struct Target {
    name: VariableName,
    part: Part,
    /// How many there are, and not what they are.
    counts: bool,
    exclusions: Vec<Exclusion>,
}

/// What is left out of a variable.
pub(crate) struct Exclusion {
    name: VariableName,
    part: Part,
}

/// Which members of a collection.
enum Part {
    All,
    Key(String),
    Pattern(Regex),
}

/// A value, and where it is from.
pub(crate) struct Item<'a> {
    variable: VariableName,
    /// Such as `ARGS`.
    collection: &'static str,
    key: Option<Cow<'a, [u8]>>,
    pub(crate) value: Cow<'a, [u8]>,
}

impl Item<'_> {
    /// Such as `ARGS:q`.
    pub(crate) fn name(&self) -> String {
        match &self.key {
            Some(key) => format!("{}:{}", self.collection, String::from_utf8_lossy(key)),
            None => self.collection.to_owned(),
        }
    }
}

impl Part {
    fn of(selection: Option<&Selection>) -> Result<Self, EngineError> {
        match selection {
            None => Ok(Self::All),
            Some(Selection::Key(key)) => Ok(Self::Key(key.trim_matches('\'').to_owned())),
            Some(Selection::Regex(pattern)) => Self::pattern(pattern),
        }
    }

    fn pattern(pattern: &str) -> Result<Self, EngineError> {
        let built = RegexBuilder::new(pattern).unicode(false).case_insensitive(true).build();
        built.map(Self::Pattern).map_err(|error| EngineError(error.to_string()))
    }

    fn has(&self, key: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Key(one) => key.eq_ignore_ascii_case(one.as_bytes()),
            Self::Pattern(pattern) => pattern.is_match(key),
        }
    }
}

impl Exclusion {
    /// Reads one, such as `ARGS:password` or `REQUEST_COOKIES:/^__utm/`.
    pub(crate) fn read(text: &str) -> Result<Self, EngineError> {
        let (name, part) =
            text.trim().split_once(':').map_or((text.trim(), None), |(name, part)| (name, Some(part)));
        let known = VariableName::from_str(name);
        let name = known.ok_or_else(|| EngineError(format!("there is no variable `{name}`")))?;
        let part = match part {
            None => Part::All,
            Some(part) => match part.strip_prefix('/').and_then(|part| part.strip_suffix('/')) {
                Some(pattern) if !pattern.is_empty() => Part::pattern(pattern)?,
                _ => Part::Key(part.trim_matches('\'').to_owned()),
            },
        };
        Ok(Self { name, part })
    }

    pub(crate) fn leaves_out(&self, item: &Item) -> bool {
        self.name == item.variable && self.part.has(item.key.as_deref().unwrap_or_default())
    }
}

impl Target {
    pub(crate) fn compile(spec: &VariableSpec) -> Result<Self, EngineError> {
        let exclusions = spec.exclusions.iter().map(|text| Exclusion::read(text));
        Ok(Self {
            name: spec.name,
            part: Part::of(spec.selection.as_ref())?,
            counts: spec.count_mode,
            exclusions: exclusions.collect::<Result<_, _>>()?,
        })
    }

    /// Whether it is this variable, or the same part of it.
    pub(crate) fn is(&self, other: &Exclusion) -> bool {
        let same = match (&self.part, &other.part) {
            (Part::All, Part::All) => true,
            (Part::Key(one), Part::Key(other)) => one.eq_ignore_ascii_case(other),
            (Part::Pattern(one), Part::Pattern(other)) => one.as_str() == other.as_str(),
            _ => false,
        };
        self.name == other.name && same
    }

    /// Leaves out more.
    pub(crate) fn exclude(&mut self, text: &str) -> Result<(), EngineError> {
        self.exclusions.push(Exclusion::read(text)?);
        Ok(())
    }

    /// The values of a message; `also` leaves out more.
    pub(crate) fn items<'a>(&self, seen: &Seen<'a>, also: &[&Exclusion]) -> Vec<Item<'a>> {
        let mut items = self.all(seen);
        items.retain(|item| {
            !self.exclusions.iter().chain(also.iter().copied()).any(|one| one.leaves_out(item))
        });
        if self.counts {
            let value = Cow::Owned(items.len().to_string().into_bytes());
            return vec![Item { variable: self.name, collection: collection(self.name), key: None, value }];
        }
        items
    }

    fn all<'a>(&self, seen: &Seen<'a>) -> Vec<Item<'a>> {
        use VariableName as Name;
        let message = seen.message;
        let found = &message.found;
        let no_pairs: &'a Pairs = const { &Vec::new() };
        let response = message.response.as_ref();
        let response_headers = response.map_or(no_pairs, |response| &response.headers);
        match self.name {
            Name::Args => self.values(&[&message.args_get, &found.args]),
            Name::ArgsGet => self.values(&[&message.args_get]),
            Name::ArgsPost => self.values(&[&found.args]),
            Name::ArgsNames => self.names(&[&message.args_get, &found.args]),
            Name::ArgsGetNames => self.names(&[&message.args_get]),
            Name::ArgsPostNames => self.names(&[&found.args]),
            Name::ArgsCombinedSize => {
                let sizes =
                    message.args_get.iter().chain(&found.args).map(|(name, value)| name.len() + value.len());
                self.number(sizes.sum())
            }
            Name::RequestHeaders => self.values(&[&message.headers]),
            Name::RequestHeadersNames => self.names(&[&message.headers]),
            Name::RequestCookies => self.values(&[&message.cookies]),
            Name::RequestCookiesNames => self.names(&[&message.cookies]),
            Name::Files => self.values(&[&found.files]),
            Name::FilesNames => self.keys(&found.files),
            Name::FilesSizes => found.file_sizes.iter().flat_map(|size| self.number(*size)).collect(),
            Name::FilesCombinedSize => self.number(found.file_sizes.iter().sum()),
            Name::MultipartPartHeaders => self.values(&[&found.part_headers]),
            Name::RequestUri => self.one(&message.uri),
            Name::RequestUriRaw => self.one(&message.target),
            Name::RequestFilename => self.one(&message.path),
            Name::RequestBasename => self.one(message.basename()),
            Name::QueryString => self.one(&message.query),
            Name::RequestMethod => self.one(&message.method),
            Name::RequestProtocol => self.one(&message.version),
            Name::RequestLine => self.owned(message.line()),
            Name::RequestBody => message.whole_body().map_or_else(Vec::new, |body| self.one(body)),
            Name::RequestBodyLength => self.number(message.body.len()),
            Name::ReqBodyProcessor if !message.processor.is_empty() => self.one(message.processor.as_bytes()),
            Name::ReqBodyError | Name::ReqBodyProcessorError => {
                self.number(usize::from(found.error.is_some()))
            }
            Name::ReqBodyErrorMsg | Name::ReqBodyProcessorErrorMsg => {
                found.error.iter().flat_map(|error| self.one(error.as_bytes())).collect()
            }
            Name::Xml => self.xml(seen),
            Name::RemoteAddr => self.one(message.client.0.as_bytes()),
            Name::RemotePort => self.number(message.client.1.into()),
            Name::ServerAddr => self.one(message.server.0.as_bytes()),
            Name::ServerPort => self.number(message.server.1.into()),
            Name::ServerName => message.header("host").map_or_else(Vec::new, |host| self.one(host)),
            Name::ResponseStatus => {
                response.map_or_else(Vec::new, |response| self.number(response.status.into()))
            }
            Name::ResponseHeaders => self.values(&[response_headers]),
            Name::ResponseHeadersNames => self.names(&[response_headers]),
            Name::ResponseContentType => content_type(response).map_or_else(Vec::new, |kind| self.one(kind)),
            Name::ResponseBody => response.map_or_else(Vec::new, |response| self.one(&response.body)),
            Name::Tx => {
                let members = seen.tx.iter().filter(|(name, _)| self.part.has(name.as_bytes()));
                members.map(|(name, value)| self.item(Some(name.as_bytes()), value)).collect()
            }
            Name::MatchedVar => seen.matched.last().map_or_else(Vec::new, |(_, value)| self.one(value)),
            Name::MatchedVarName => seen.matched.last().map_or_else(Vec::new, |(name, _)| self.one(name)),
            Name::MatchedVars => self.values(&[seen.matched]),
            Name::MatchedVarsNames => self.keys(seen.matched),
            // Collections that are kept between requests, clocks, and what a server's own modules know: there are none.
            _ => Vec::new(),
        }
    }

    fn item<'a>(&self, key: Option<&'a [u8]>, value: &'a [u8]) -> Item<'a> {
        let (key, value) = (key.map(Cow::Borrowed), Cow::Borrowed(value));
        Item { variable: self.name, collection: collection(self.name), key, value }
    }

    fn one<'a>(&self, value: &'a [u8]) -> Vec<Item<'a>> {
        vec![self.item(None, value)]
    }

    fn owned<'a>(&self, value: Vec<u8>) -> Vec<Item<'a>> {
        vec![Item {
            variable: self.name,
            collection: collection(self.name),
            key: None,
            value: Cow::Owned(value),
        }]
    }

    fn number<'a>(&self, number: usize) -> Vec<Item<'a>> {
        self.owned(number.to_string().into_bytes())
    }

    fn values<'a>(&self, pairs: &[&'a Pairs]) -> Vec<Item<'a>> {
        let members = pairs.iter().flat_map(|pairs| pairs.iter()).filter(|(name, _)| self.part.has(name));
        members.map(|(name, value)| self.item(Some(name), value)).collect()
    }

    /// Each name is its own key.
    fn names<'a>(&self, pairs: &[&'a Pairs]) -> Vec<Item<'a>> {
        let members = pairs.iter().flat_map(|pairs| pairs.iter()).filter(|(name, _)| self.part.has(name));
        members.map(|(name, _)| self.item(Some(name), name)).collect()
    }

    fn keys<'a>(&self, pairs: &'a Pairs) -> Vec<Item<'a>> {
        self.names(&[pairs])
    }

    /// `XML:/*` is the text, `XML://@*` the attributes, and without a part both.
    fn xml<'a>(&self, seen: &Seen<'a>) -> Vec<Item<'a>> {
        let found = &seen.message.found;
        let is = |path: &str| matches!(&self.part, Part::Key(key) if key == path);
        let mut items = Vec::new();
        if matches!(self.part, Part::All) || is("/*") {
            items.extend(found.xml_text.iter().map(|text| self.item(None, text)));
        }
        if matches!(self.part, Part::All) || is("//@*") {
            items.extend(found.xml_attributes.iter().map(|value| self.item(None, value)));
        }
        items
    }
}

fn content_type(response: Option<&Response>) -> Option<&[u8]> {
    let headers = &response?.headers;
    let kind = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(b"content-type"));
    kind.map(|(_, value)| value.as_slice())
}

/// What targets are looked up in.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) message: &'a Message,
    pub(crate) tx: &'a Tx,
    /// Names and values that the rule in hand matched.
    pub(crate) matched: &'a Pairs,
}

impl<'a> Seen<'a> {
    /// The first value of a variable that a macro names.
    pub(crate) fn variable(&self, name: &str, key: Option<&str>) -> Option<Cow<'a, [u8]>> {
        let part = key.map_or(Part::All, |key| Part::Key(key.to_owned()));
        let name = VariableName::from_str(name)?;
        let target = Target { name, part, counts: false, exclusions: Vec::new() };
        target.all(self).into_iter().next().map(|item| item.value)
    }
}

/// The name as rules write it.
fn collection(name: VariableName) -> &'static str {
    use VariableName as Name;
    match name {
        Name::Args => "ARGS",
        Name::ArgsGet => "ARGS_GET",
        Name::ArgsPost => "ARGS_POST",
        Name::ArgsNames => "ARGS_NAMES",
        Name::ArgsGetNames => "ARGS_GET_NAMES",
        Name::ArgsPostNames => "ARGS_POST_NAMES",
        Name::ArgsCombinedSize => "ARGS_COMBINED_SIZE",
        Name::RequestHeaders => "REQUEST_HEADERS",
        Name::RequestHeadersNames => "REQUEST_HEADERS_NAMES",
        Name::RequestCookies => "REQUEST_COOKIES",
        Name::RequestCookiesNames => "REQUEST_COOKIES_NAMES",
        Name::Files => "FILES",
        Name::FilesNames => "FILES_NAMES",
        Name::FilesSizes => "FILES_SIZES",
        Name::FilesCombinedSize => "FILES_COMBINED_SIZE",
        Name::MultipartPartHeaders => "MULTIPART_PART_HEADERS",
        Name::RequestUri => "REQUEST_URI",
        Name::RequestUriRaw => "REQUEST_URI_RAW",
        Name::RequestFilename => "REQUEST_FILENAME",
        Name::RequestBasename => "REQUEST_BASENAME",
        Name::QueryString => "QUERY_STRING",
        Name::RequestMethod => "REQUEST_METHOD",
        Name::RequestProtocol => "REQUEST_PROTOCOL",
        Name::RequestLine => "REQUEST_LINE",
        Name::RequestBody => "REQUEST_BODY",
        Name::ReqBodyProcessor => "REQBODY_PROCESSOR",
        Name::Xml => "XML",
        Name::RemoteAddr => "REMOTE_ADDR",
        Name::ServerName => "SERVER_NAME",
        Name::ResponseStatus => "RESPONSE_STATUS",
        Name::ResponseHeaders => "RESPONSE_HEADERS",
        Name::ResponseHeadersNames => "RESPONSE_HEADERS_NAMES",
        Name::ResponseContentType => "RESPONSE_CONTENT_TYPE",
        Name::ResponseBody => "RESPONSE_BODY",
        Name::Tx => "TX",
        Name::MatchedVar => "MATCHED_VAR",
        Name::MatchedVarName => "MATCHED_VAR_NAME",
        Name::MatchedVars => "MATCHED_VARS",
        Name::MatchedVarsNames => "MATCHED_VARS_NAMES",
        _ => "VARIABLE",
    }
}
