//! The documents of a folder: read strictly, with places, and in the order in which their objects can be made.
//!
//! A document has `kind`, `name`, `spec` and perhaps `id`. A text `ref:KIND/NAME` in a spec stands for the id of another
//! document's object.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ebbgate_policy::text::{Kind as Yaml, Node, Place, nearest, parse_yaml_documents};
use serde_json::{Map, Value};

use super::kind::{self, Kind};

/// Most files of a folder.
const FILES_MAX: usize = 1_000;
/// Longest file in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most documents of a folder.
const DOCUMENTS_MAX: usize = 20_000;
/// Longest name of a document, in bytes.
const NAME_BYTES_MAX: usize = 63;
/// How a reference begins.
pub(super) const REFERENCE: &str = "ref:";

/// One declared object.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) kind: &'static Kind,
    pub(super) name: String,
    /// The object it is bound to; anybody may have made it.
    pub(super) id: Option<String>,
    /// References not yet replaced.
    pub(super) spec: Map<String, Value>,
    /// Where it stands, for people.
    pub(super) place: String,
}

impl Document {
    /// Kind and name, as references say it.
    pub(super) fn title(&self) -> String {
        format!("{}/{}", self.kind.name, self.name)
    }
}

/// Whether a name may stand in a label and a reference.
pub(super) fn is_name(text: &str) -> bool {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.chars().all(is_fine)
}

/// All documents of a folder, those that others refer to first; or everything wrong with them, a line each.
pub(super) fn read(dir: &Path) -> Result<Vec<Document>, Vec<String>> {
    let mut files: Vec<_> = match fs::read_dir(dir) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(error) => return Err(vec![format!("cannot read {}: {error}", dir.display())]),
    };
    let is_ours = |path: &Path| {
        path.extension().is_some_and(|ending| ending == "yml" || ending == "yaml" || ending == "json")
    };
    files.retain(|path| is_ours(path) && path.is_file());
    files.sort();
    if files.is_empty() || files.len() > FILES_MAX {
        let (dir, count) = (dir.display(), files.len());
        return Err(vec![format!(
            "{dir} has {count} files .yml, .yaml and .json; 1 to {FILES_MAX} are wanted"
        )]);
    }
    let (mut documents, mut problems) = (Vec::new(), Vec::new());
    for file in &files {
        let name = file.display();
        let length = fs::metadata(file).map_or(0, |facts| facts.len());
        if length > FILE_BYTES_MAX {
            problems.push(format!("{name}: the file is longer than {FILE_BYTES_MAX} bytes"));
            continue;
        }
        match fs::read_to_string(file) {
            Ok(text) => parse(&name.to_string(), &text, &mut documents, &mut problems),
            Err(error) => problems.push(format!("{name}: {error}")),
        }
    }
    if documents.len() > DOCUMENTS_MAX {
        problems.push(format!("there are {} documents; at most {DOCUMENTS_MAX} are taken", documents.len()));
    }
    twice(&documents, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    in_order(documents)
}

/// The documents of one text.
fn parse(file: &str, text: &str, documents: &mut Vec<Document>, problems: &mut Vec<String>) {
    let at = |place: Place| format!("{file}:{}:{}", place.line, place.column);
    match parse_yaml_documents(text) {
        Err(error) => {
            let hint = error.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            problems.push(format!("{}: {}{hint}", at(error.place), error.message));
        }
        Ok(nodes) => {
            for node in nodes {
                match document(&node, &at) {
                    Ok(document) => documents.push(document),
                    Err(found) => problems.extend(found),
                }
            }
        }
    }
}

fn document(node: &Node, at: &dyn Fn(Place) -> String) -> Result<Document, Vec<String>> {
    let one = |place: Place, message: String| vec![format!("{}: {message}", at(place))];
    let Yaml::Map(entries) = &node.kind else {
        return Err(one(
            node.place,
            format!("a document is a map with kind, name and spec, not {}", node.noun()),
        ));
    };
    let known = ["kind", "name", "id", "spec"];
    if let Some((key, _)) = entries.iter().find(|(key, _)| !known.contains(&key.text.as_str())) {
        return Err(one(key.place, unknown(&key.text, &known)));
    }
    let value = |name: &str| entries.iter().find(|(key, _)| key.text == name).map(|(_, value)| value);
    let text = |name: &str| match value(name).map(|value| (&value.kind, value)) {
        Some((Yaml::Text(text), value)) => Ok(Some((text.clone(), value.place))),
        None => Ok(None),
        Some((_, value)) => Err(one(value.place, format!("`{name}` must be text, not {}", value.noun()))),
    };
    let needed = |name: &str| one(node.place, format!("the document has no `{name}`"));
    let (kind_name, place) = text("kind")?.ok_or_else(|| needed("kind"))?;
    let kind = kind::find(&kind_name).ok_or_else(|| {
        let kinds: Vec<&str> = kind::all().iter().map(|kind| kind.name.as_str()).collect();
        one(place, format!("the kind `{kind_name}` is unknown; there are {}", kinds.join(", ")))
    })?;
    let (name, place) = text("name")?.ok_or_else(|| needed("name"))?;
    if !is_name(&name) {
        let rule = format!("the name `{name}` must be 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ -");
        return Err(one(place, rule));
    }
    let id = text("id")?.map(|(id, _)| id);
    let mut spec = Map::new();
    let mut problems = Vec::new();
    match value("spec").map(|value| (&value.kind, value)) {
        None => {}
        Some((Yaml::Map(fields), _)) => {
            let known: Vec<&str> = kind.fields.iter().map(|field| field.name.as_str()).collect();
            for (key, value) in fields {
                if known.contains(&key.text.as_str()) {
                    spec.insert(key.text.clone(), field(&key.text, value));
                } else {
                    problems.extend(one(key.place, unknown(&key.text, &known)));
                }
            }
        }
        Some((_, value)) => {
            problems.extend(one(value.place, format!("`spec` must be a map, not {}", value.noun())));
        }
    }
    if problems.is_empty() {
        Ok(Document { kind, name, id, spec, place: at(node.place) })
    } else {
        Err(problems)
    }
}

/// A traffic policy may be written as the map it is; the API takes it as one text.
fn field(name: &str, node: &Node) -> Value {
    match (name, &node.kind) {
        ("traffic_policy", Yaml::Map(_)) => {
            serde_json::to_string_pretty(&node.to_json()).unwrap_or_default().into()
        }
        _ => node.to_json(),
    }
}

fn unknown(name: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(nearest) => format!("unknown field `{name}`; did you mean `{nearest}`?"),
        None => format!("unknown field `{name}`; known fields: {}", known.join(", ")),
    }
}

/// Two documents of one kind and name, or of one id.
fn twice(documents: &[Document], problems: &mut Vec<String>) {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for document in documents {
        let ids = document.id.iter().map(|id| format!("the id {id}"));
        for what in ids.chain([document.title()]) {
            if let Some(first) = seen.insert(what.clone(), &document.place) {
                problems.push(format!("{}: {what} stands at {first} already", document.place));
            }
        }
    }
}

/// Texts of a value, at every depth.
pub(super) fn texts<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| texts(field, found)),
        _ => {}
    }
}

/// The references in a text: `ref:KIND/NAME`, alone or among other words.
pub(super) fn references(text: &str) -> Vec<&str> {
    let ends = |c: char| !(c.is_ascii_alphanumeric() || "._-/".contains(c));
    let after = text.match_indices(REFERENCE).filter(|(at, _)| {
        text.get(..*at)
            .and_then(|before| before.chars().next_back())
            .is_none_or(|c| !c.is_ascii_alphanumeric())
    });
    let after = after.filter_map(|(at, sign)| text.get(at + sign.len()..));
    after.filter_map(|rest| rest.split(ends).next()).filter(|name| name.contains('/')).collect()
}

/// Resources that objects of another name by what they are called, and not by id.
fn stands_on(resource: &str) -> &'static [&'static str] {
    match resource {
        "endpoints" => &["reserved_domains", "reserved_addrs", "vault_secrets"],
        "vault_secrets" => &["vaults"],
        _ => &[],
    }
}

fn in_order(documents: Vec<Document>) -> Result<Vec<Document>, Vec<String>> {
    let titles: BTreeMap<String, usize> =
        documents.iter().enumerate().map(|(at, document)| (document.title(), at)).collect();
    let mut problems = Vec::new();
    let mut needs: Vec<Vec<usize>> = Vec::new();
    for document in &documents {
        let mut all = Vec::new();
        document.spec.values().for_each(|value| texts(value, &mut all));
        let mut needed = Vec::new();
        for title in all.into_iter().flat_map(references) {
            match titles.get(title) {
                Some(at) => needed.push(*at),
                None => problems.push(format!(
                    "{}: there is no document {title}, to which `ref:{title}` refers",
                    document.place
                )),
            }
        }
        let stands_on = stands_on(document.kind.resource);
        let implied =
            documents.iter().enumerate().filter(|(_, other)| stands_on.contains(&other.kind.resource));
        needed.extend(implied.map(|(at, _)| at));
        needs.push(needed);
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut order: Vec<usize> = Vec::new();
    let mut left: Vec<usize> = (0..documents.len()).collect();
    while !left.is_empty() {
        let is_ready =
            |at: &usize| needs.get(*at).is_none_or(|all| all.iter().all(|other| order.contains(other)));
        let (ready, waiting): (Vec<usize>, Vec<usize>) = left.iter().copied().partition(is_ready);
        if ready.is_empty() {
            let names = waiting.iter().filter_map(|at| documents.get(*at)).map(Document::title);
            return Err(vec![format!(
                "these refer to each other in a circle: {}",
                names.collect::<Vec<_>>().join(", ")
            )]);
        }
        order.extend(ready);
        left = waiting;
    }
    let mut slots: Vec<Option<Document>> = documents.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|at| slots.get_mut(at).and_then(Option::take)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let prefix = format!("{}/", dir.path().display());
        let read = read(dir.path()).map_err(|problems| problems.join("\n").replace(&prefix, ""));
        Ok(read?.iter().map(Document::title).collect())
    }

    #[test]
    fn documents_come_in_the_order_of_their_references() {
        let rule = "kind: IpPolicyRule\nname: all\nspec: {ip_policy_id: ref:IpPolicy/office, cidr: 10.0.0.0/8, action: allow}\n";
        let policy = "kind: IPPolicy\nname: office\n---\nkind: Endpoint\nname: web\nspec:\n  url: https://a.example\n  traffic_policy:\n    on_tcp_connect: [{actions: [{type: restrict-ips, config: {ip_policies: ['ref:IpPolicy/office']}}]}]\n";
        let read = folder(&[("a.yml", rule), ("b.yaml", policy), ("c.txt", "no")]);
        assert_eq!(
            read.as_deref(),
            Ok(&["IpPolicy/office", "IpPolicyRule/all", "Endpoint/web"].map(str::to_owned)[..])
        );
        let endpoint = "kind: Endpoint\nname: a\nspec: {url: https://a.example}\n";
        let domain = "kind: ReservedDomain\nname: a\nspec: {domain: a.example}\n";
        assert_eq!(
            folder(&[("a.yml", endpoint), ("b.yml", domain)]).unwrap(),
            ["ReservedDomain/a", "Endpoint/a"]
        );
        assert_eq!(
            folder(&[("a.json", "{\"kind\": \"IpPolicy\", \"name\": \"x\"}")]).unwrap(),
            ["IpPolicy/x"]
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (files, expect) in [
            (
                &[("a.yml", "kind: IpPolicy\nname: x\nspec:\n  descripton: y\n")][..],
                "a.yml:4:3: unknown field `descripton`; did you mean `description`?",
            ),
            (&[("a.yml", "kind: Wing\nname: x\n")], "a.yml:1:7: the kind `Wing` is unknown"),
            (&[("a.yml", "kind: IpPolicy\nname: a b\n")], "a.yml:2:7: the name `a b`"),
            (
                &[("a.yml", "kind: IpPolicy\nnmae: x\n")],
                "a.yml:2:1: unknown field `nmae`; did you mean `name`?",
            ),
            (
                &[("a.yml", "kind: IpPolicy\nname: x\n"), ("b.yml", "kind: IPPolicy\nname: x\n")],
                "b.yml:1:1: IpPolicy/x stands at a.yml:1:1 already",
            ),
            (
                &[("a.yml", "kind: IpPolicyRule\nname: x\nspec: {ip_policy_id: ref:IpPolicy/y}\n")],
                "there is no document IpPolicy/y",
            ),
            (
                &[("a.yml", "kind: IpPolicy\nname: x\nspec: {metadata: ref:IpPolicy/x}\n")],
                "in a circle: IpPolicy/x",
            ),
            (&[("a.yml", "kind: [\n")], "a.yml:1:7: the YAML cannot be read"),
            (&[], "has 0 files"),
        ] {
            let problem = folder(files).unwrap_err();
            assert!(problem.contains(expect), "{expect}: {problem}");
        }
    }
}
