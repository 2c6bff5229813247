//! The account's objects as documents: a file for each kind, which `apply` accepts and finds no difference in.
//!
//! Each document is bound to its object by `id`. What answers never show, keys and tokens, is not in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::super::client::Client;
use super::super::env::Failure;
use super::kind::{self, Kind};
use super::live;
use super::manifest::{REFERENCE, is_name};

/// Fields that name an object well, the best first.
const NAMING: [&str; 7] = ["name", "domain", "url", "addr", "cidr", "type", "description"];
/// Longest name that is made from a field.
const NAME_CHARS_MAX: usize = 40;

/// Writes the files; gives how many documents each has.
pub(super) fn write(client: &mut Client, dir: &Path) -> Result<Vec<(String, usize)>, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", dir.display()));
    fs::create_dir_all(dir).map_err(failed)?;
    if fs::read_dir(dir).map_err(failed)?.next().is_some() {
        return Err(Failure::new(format!("{} is not empty; name a new folder", dir.display())));
    }
    let mut objects: Vec<(&'static Kind, Vec<Value>)> = Vec::new();
    for kind in kind::all() {
        objects.push((kind, live::list(client, kind)?));
    }
    let titles = titles(&objects);
    let mut written = Vec::new();
    for (kind, objects) in objects.iter().filter(|(_, objects)| !objects.is_empty()) {
        let documents: Vec<String> = objects.iter().map(|object| document(kind, object, &titles)).collect();
        let file = format!("{}.yml", kind.resource);
        fs::write(dir.join(&file), documents.join("---\n")).map_err(failed)?;
        written.push((file, documents.len()));
    }
    Ok(written)
}

/// Id to kind and name, every name once in its kind.
fn titles(objects: &[(&'static Kind, Vec<Value>)]) -> BTreeMap<String, String> {
    let mut titles = BTreeMap::new();
    for (kind, objects) in objects {
        let mut used = BTreeSet::new();
        for object in objects {
            let named = live::label(object).map(|(_, name)| name.to_owned()).filter(|name| is_name(name));
            let base = named.unwrap_or_else(|| name_of(object));
            let mut name = base.clone();
            let mut count = 1;
            while !used.insert(name.clone()) {
                count += 1;
                name = format!("{base}-{count}");
            }
            titles.insert(live::id(object).to_owned(), format!("{}/{name}", kind.name));
        }
    }
    titles
}

fn name_of(object: &Value) -> String {
    let text = NAMING.iter().filter_map(|field| object.get(*field)?.as_str()).find(|text| !text.is_empty());
    let fine = text.unwrap_or_default().replace("://", "-");
    let fine = fine
        .chars()
        .take(NAME_CHARS_MAX)
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' });
    let name: String = fine.collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() { "object".to_owned() } else { name.to_owned() }
}

fn document(kind: &Kind, object: &Value, titles: &BTreeMap<String, String>) -> String {
    let id = live::id(object);
    let name = titles.get(id).and_then(|title| title.split_once('/')).map_or("object", |(_, name)| name);
    let mut text = format!("kind: {}\nname: {}\nid: {id}\n", kind.name, Value::from(name));
    let mut spec = String::new();
    for field in &kind.fields {
        let Some(value) = live::value(field, object).filter(|value| !live::is_empty(value)) else { continue };
        let _ = write!(spec, "  {}: {}", field.name, yaml(&referring(value, id, titles)));
    }
    if !spec.is_empty() {
        let _ = write!(text, "spec:\n{spec}");
    }
    text
}

/// A value with ids of other objects as references.
fn referring(value: Value, own: &str, titles: &BTreeMap<String, String>) -> Value {
    match value {
        Value::String(text) => {
            let mut text = text;
            // An id has 27 characters behind its first `_`, so that none is part of another.
            for (id, title) in titles.iter().filter(|(id, _)| id.as_str() != own) {
                if text.contains(id.as_str()) {
                    text = text.replace(id.as_str(), &format!("{REFERENCE}{title}"));
                }
            }
            Value::String(text)
        }
        Value::Array(items) => items.into_iter().map(|item| referring(item, own, titles)).collect(),
        other => other,
    }
}

/// A value of a field: JSON, which YAML takes, and texts of several lines as a block.
fn yaml(value: &Value) -> String {
    let Some(text) = value.as_str() else { return format!("{value}\n") };
    let is_plain = |line: &str| !line.starts_with([' ', '\t']) && !line.chars().any(char::is_control);
    let body = text.strip_suffix('\n').unwrap_or(text);
    let is_block = text.contains('\n')
        && !body.is_empty()
        && !body.ends_with('\n')
        && body.lines().next().is_some_and(|line| is_plain(line) && !line.is_empty())
        && body.split('\n').all(|line| !line.chars().any(char::is_control));
    if !is_block {
        return format!("{value}\n");
    }
    let mark = if text.ends_with('\n') { "|" } else { "|-" };
    let lines =
        body.split('\n').map(|line| if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") });
    format!("{mark}\n{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::super::kind::find;
    use super::*;
    use ebbgate_policy::text::parse_yaml_documents;
    use serde_json::json;

    #[test]
    fn what_is_written_is_what_is_read() {
        for text in [
            "a",
            "",
            "a: b # c",
            "x\ny\n",
            "x\n  y\n\nz",
            " x\ny",
            "x\n\n",
            "x\ty\nz",
            "- \"q\"\n'w'\n",
            "\u{1}\n2",
        ] {
            let written = format!("t: {}", yaml(&text.into()));
            let read = parse_yaml_documents(&written).unwrap();
            assert_eq!(read[0].to_json(), json!({ "t": text }), "{written}");
        }
        let kind = find("IpPolicyRule").unwrap();
        let (policy, rule) = ("ipp_2h5XjNr3XzLQFbL9aVfFGXq0wLv", "ipr_2h5XjNr3XzLQFbL9aVfFGXq0wLw");
        let titles = [(policy, "IpPolicy/office"), (rule, "IpPolicyRule/x")];
        let titles = titles.map(|(id, title)| (id.to_owned(), title.to_owned())).into_iter().collect();
        let object =
            json!({ "id": rule, "cidr": "10.0.0.0/8", "ip_policy": { "id": policy }, "description": "" });
        assert_eq!(
            document(kind, &object, &titles),
            format!(
                "kind: IpPolicyRule\nname: \"x\"\nid: {rule}\nspec:\n  cidr: \"10.0.0.0/8\"\n  ip_policy_id: \"ref:IpPolicy/office\"\n"
            )
        );
    }
}
