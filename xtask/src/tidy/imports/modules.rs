//! Reads the sources of one target (a library or a program) into its tree of modules: what each module declares, which
//! names it imports, and which paths it names.
//!
//! `proc_macro2` splits the text into tokens, so strings and comments are never mistaken for code. What `#[cfg(test)]`
//! covers is left out. Knows nothing about which file a path leads to: that is `resolve.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Index, IndexMut};

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Index of a module in [`Modules`].
pub(super) type Id = usize;

/// One module: a file, or a `mod` with a body inside a file.
#[derive(Debug)]
pub(super) struct Module {
    /// The file it is written in, from the root of the workspace.
    pub(super) file: String,
    pub(super) parent: Option<Id>,
    pub(super) children: BTreeMap<String, Id>,
    /// Names of items written in it.
    pub(super) defined: BTreeSet<String>,
    /// Its `use` declarations, private ones too: a child may name what its parent imports.
    pub(super) imports: Vec<Import>,
    /// Every path it names, `use` declarations included.
    pub(super) mentions: Vec<Mention>,
    /// The folder in which its children's files are.
    folder: String,
}

/// One name that a `use` brings in.
#[derive(Debug, Clone)]
pub(super) struct Import {
    pub(super) path: Vec<String>,
    /// The name it has here; none for a glob.
    pub(super) name: Option<String>,
}

/// One path in the text.
#[derive(Debug)]
pub(super) struct Mention {
    pub(super) path: Vec<String>,
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) kind: Kind,
}

/// How a path is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// In code or in an attribute.
    Path,
    /// In a private `use` of one name: if that is a module, the paths that begin with it count instead.
    Private,
    /// In a `use` that shows the name to others, or that takes all names of a module.
    Whole,
}

/// All modules of the targets that were read.
#[derive(Debug, Default)]
pub(super) struct Modules {
    pub(super) all: Vec<Module>,
    /// Roots of libraries, by the name that other crates use.
    pub(super) libraries: BTreeMap<String, Id>,
}

impl Index<Id> for Modules {
    type Output = Module;

    fn index(&self, id: Id) -> &Module {
        self.all.get(id).expect("an id is made when its module is added, and none is taken out")
    }
}

impl IndexMut<Id> for Modules {
    fn index_mut(&mut self, id: Id) -> &mut Module {
        self.all.get_mut(id).expect("an id is made when its module is added, and none is taken out")
    }
}

impl Modules {
    /// Reads the target whose root file is `root`, and the files that it declares.
    ///
    /// # Errors
    /// If a file is not Rust.
    pub(super) fn read(
        &mut self,
        root: &str,
        library: Option<&str>,
        texts: &BTreeMap<String, String>,
    ) -> Result<()> {
        let Some(text) = texts.get(root) else { return Ok(()) };
        let folder = root.rsplit_once('/').map_or("", |(folder, _)| folder);
        let id = self.add(root, folder.to_owned(), None);
        if let Some(name) = library {
            self.libraries.insert(name.replace('-', "_"), id);
        }
        Reader { modules: self, texts }.file(id, text)
    }

    fn add(&mut self, file: &str, folder: String, parent: Option<Id>) -> Id {
        let (children, defined) = (BTreeMap::new(), BTreeSet::new());
        let (imports, mentions) = (Vec::new(), Vec::new());
        self.all.push(Module { file: file.to_owned(), parent, children, defined, imports, mentions, folder });
        self.all.len() - 1
    }
}

/// Names that the `use` declarations of the enclosing blocks bring in, innermost last.
type Scopes = Vec<BTreeMap<String, Vec<String>>>;

struct Reader<'a> {
    modules: &'a mut Modules,
    texts: &'a BTreeMap<String, String>,
}

impl Reader<'_> {
    fn file(&mut self, id: Id, text: &str) -> Result<()> {
        let tokens: TokenStream = text.parse().map_err(|error: proc_macro2::LexError| {
            anyhow!("{}:{}: {error}", self.module(id).file, error.span().start().line)
        })?;
        self.walk(id, tokens, &mut Vec::new(), true)
    }

    fn module(&mut self, id: Id) -> &mut Module {
        &mut self.modules[id]
    }

    /// Reads tokens of a module (`items`) or of anything inside one.
    fn walk(&mut self, id: Id, tokens: TokenStream, scopes: &mut Scopes, items: bool) -> Result<()> {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        if !items {
            scopes.push(block_imports(&tokens));
        }
        let mut at = 0;
        let mut left_out = false;
        while let Some(token) = tokens.get(at) {
            if let Some((attribute, inner, after)) = attribute(&tokens, at) {
                let only_tests = is_for_tests(&attribute);
                if only_tests && inner {
                    break;
                }
                left_out |= only_tests || word(attribute.first()).as_deref() == Some("path");
                if !left_out && word(attribute.first()).as_deref() != Some("doc") {
                    self.attribute(id, &attribute, scopes);
                }
                at = after;
                continue;
            }
            if std::mem::take(&mut left_out) {
                at = end_of_item(&tokens, at);
                continue;
            }
            at = match token {
                TokenTree::Group(group) => {
                    self.walk(id, group.stream(), scopes, false)?;
                    at + 1
                }
                TokenTree::Ident(_) => self.word(id, &tokens, at, scopes, items)?,
                _ => at + 1,
            };
        }
        if !items {
            scopes.pop();
        }
        Ok(())
    }

    /// Reads what the word at `at` begins; says where to go on.
    fn word(
        &mut self,
        id: Id,
        tokens: &[TokenTree],
        at: usize,
        scopes: &mut Scopes,
        items: bool,
    ) -> Result<usize> {
        let text = word(tokens.get(at)).unwrap_or_default();
        let next = word(tokens.get(at + 1));
        match text.as_str() {
            // `pub(crate)`, `pub(in crate::a)`: no import.
            "pub" if is_group(tokens.get(at + 1), Delimiter::Parenthesis) => Ok(at + 2),
            "use" if !is_punct(tokens.get(at + 1), '<') => Ok(self.import(id, tokens, at, items)),
            "mod" if items => match next {
                Some(name) => self.declared(id, &name, tokens, at + 2),
                None => Ok(at + 1),
            },
            "fn" | "struct" | "enum" | "trait" | "type" | "union" | "const" | "static" if items => {
                if let Some(name) = next.filter(|name| !["fn", "unsafe", "async"].contains(&name.as_str())) {
                    self.module(id).defined.insert(name);
                }
                Ok(at + 1)
            }
            "macro_rules" if items => {
                if let Some(name) = word(tokens.get(at + 2)) {
                    self.module(id).defined.insert(name);
                }
                Ok(at + 1)
            }
            _ => {
                let (path, after) = path(tokens, at);
                let of_a_value = is_punct(before(tokens, at, 1), '.');
                if let Some(token) = tokens.get(at).filter(|_| path.len() > 1 && !of_a_value) {
                    self.mention(id, path, line(token), scopes);
                }
                Ok(after)
            }
        }
    }

    fn mention(&mut self, id: Id, path: Vec<String>, line: usize, scopes: &Scopes) {
        let Some((first, rest)) = path.split_first() else { return };
        let path = match scopes.iter().rev().find_map(|scope| scope.get(first)) {
            Some(before) if before != std::slice::from_ref(first) => {
                before.iter().chain(rest).cloned().collect()
            }
            _ => path,
        };
        self.module(id).mentions.push(Mention { path, line, kind: Kind::Path });
    }

    /// A `use`; says where its semicolon is passed.
    fn import(&mut self, id: Id, tokens: &[TokenTree], at: usize, items: bool) -> usize {
        let public = is_public(tokens, at);
        let (found, after) = declared_names(tokens, at);
        for (import, line) in found {
            let kind = if public || import.name.is_none() { Kind::Whole } else { Kind::Private };
            let path = import.path.clone();
            self.module(id).mentions.push(Mention { path, line, kind });
            if items {
                self.module(id).imports.push(import);
            }
        }
        after
    }

    /// `mod name;` or `mod name { .. }`, read after the name.
    fn declared(&mut self, id: Id, name: &str, tokens: &[TokenTree], at: usize) -> Result<usize> {
        let (file, folder) = (self.module(id).file.clone(), self.module(id).folder.clone());
        let below = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        if let Some(TokenTree::Group(body)) = tokens.get(at) {
            let child = self.modules.add(&file, below, Some(id));
            self.module(id).children.insert(name.to_owned(), child);
            self.walk(child, body.stream(), &mut Vec::new(), true)?;
        } else if let Some((path, text)) = self.texts.get_key_value(&format!("{below}.rs")) {
            let child = self.modules.add(path, below, Some(id));
            self.module(id).children.insert(name.to_owned(), child);
            self.file(child, text)?;
        }
        Ok(at + 1)
    }

    /// Paths in an attribute, and in its strings, as serde has them.
    fn attribute(&mut self, id: Id, tokens: &[TokenTree], scopes: &Scopes) {
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    self.attribute(id, &inner, scopes);
                }
                TokenTree::Ident(_) if !is_punct(before(tokens, at, 1), ':') => {
                    let (path, _) = path(tokens, at);
                    if path.len() > 1 {
                        self.mention(id, path, line(token), scopes);
                    }
                }
                TokenTree::Literal(literal) => {
                    let text = literal.to_string();
                    let path: Vec<String> = text.trim_matches('"').split("::").map(str::to_owned).collect();
                    let names = |part: &String| {
                        !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_')
                    };
                    if text.starts_with('"') && path.len() > 1 && path.iter().all(names) {
                        self.mention(id, path, line(token), scopes);
                    }
                }
                TokenTree::Ident(_) | TokenTree::Punct(_) => {}
            }
        }
    }
}

/// What the `use` declarations directly inside a block bring in.
fn block_imports(tokens: &[TokenTree]) -> BTreeMap<String, Vec<String>> {
    let uses = (0..tokens.len())
        .filter(|at| word(tokens.get(*at)).as_deref() == Some("use") && !is_punct(tokens.get(at + 1), '<'));
    let found = uses.flat_map(|at| declared_names(tokens, at).0);
    found.filter_map(|(import, _)| Some((import.name?, import.path))).collect()
}

/// The names of the `use` at `at`, each with its line, and where its semicolon is passed.
fn declared_names(tokens: &[TokenTree], at: usize) -> (Vec<(Import, usize)>, usize) {
    let rest = tokens.get(at + 1..).unwrap_or_default();
    let names = rest.split(|token| is_punct(Some(token), ';')).next().unwrap_or_default();
    let mut found = Vec::new();
    tree(names, &[], &mut found);
    (found, at + names.len() + 2)
}

/// The names of a `use` tree, each with its line.
fn tree(tokens: &[TokenTree], before: &[String], found: &mut Vec<(Import, usize)>) {
    for branch in tokens.split(|token| is_punct(Some(token), ',')) {
        let mut path = before.to_vec();
        let mut name = None;
        let mut at = 0;
        while let Some(token) = branch.get(at) {
            match token {
                TokenTree::Ident(_) => match word(Some(token)).unwrap_or_default().as_str() {
                    "as" => {
                        name = word(branch.get(at + 1));
                        at += 1;
                    }
                    "self" if !path.is_empty() => {}
                    part => path.push(part.to_owned()),
                },
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    tree(&inner, &path, found);
                    path.clear();
                }
                TokenTree::Punct(star) if star.as_char() == '*' => {
                    found.push((Import { path: std::mem::take(&mut path), name: None }, line(token)));
                }
                _ => {}
            }
            at += 1;
        }
        if let (Some(last), Some(token)) = (path.last(), branch.first()) {
            let name = name.unwrap_or_else(|| last.clone());
            found.push((Import { path, name: Some(name) }, line(token)));
        }
    }
}

/// The path that begins at a word, and where it ends.
fn path(tokens: &[TokenTree], at: usize) -> (Vec<String>, usize) {
    let mut path: Vec<String> = word(tokens.get(at)).into_iter().collect();
    let mut end = at + 1;
    while is_punct(tokens.get(end), ':') && is_punct(tokens.get(end + 1), ':') {
        let Some(part) = word(tokens.get(end + 2)) else { break };
        path.push(part);
        end += 3;
    }
    (path, end)
}

/// The attribute at `at`: its tokens, whether it is an inner one, and where it ends.
fn attribute(tokens: &[TokenTree], at: usize) -> Option<(Vec<TokenTree>, bool, usize)> {
    if !is_punct(tokens.get(at), '#') {
        return None;
    }
    let inner = is_punct(tokens.get(at + 1), '!');
    let at = at + 1 + usize::from(inner);
    match tokens.get(at) {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket => {
            Some((group.stream().into_iter().collect(), inner, at + 1))
        }
        _ => None,
    }
}

/// `cfg(test)`, also as a part of `all(..)`.
fn is_for_tests(attribute: &[TokenTree]) -> bool {
    fn says(tokens: TokenStream) -> bool {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        tokens.iter().enumerate().any(|(at, token)| match token {
            TokenTree::Ident(ident) => ident == "test",
            TokenTree::Group(group) => {
                let all = word(before(&tokens, at, 1)).as_deref() == Some("all");
                all && says(group.stream())
            }
            _ => false,
        })
    }
    match attribute {
        [TokenTree::Ident(cfg), TokenTree::Group(group)] => cfg == "cfg" && says(group.stream()),
        _ => false,
    }
}

/// Where the item, statement, field or arm that begins at `at` ends.
fn end_of_item(tokens: &[TokenTree], mut at: usize) -> usize {
    if word(tokens.get(at)).as_deref() == Some("pub") {
        at += 1 + usize::from(is_group(tokens.get(at + 1), Delimiter::Parenthesis));
    }
    let first = word(tokens.get(at)).unwrap_or_default();
    let value = matches!(first.as_str(), "use" | "let" | "static" | "type")
        || first == "const"
            && !matches!(word(tokens.get(at + 1)).as_deref(), Some("fn" | "unsafe" | "async"));
    let item = matches!(
        first.as_str(),
        "fn" | "mod"
            | "impl"
            | "struct"
            | "enum"
            | "trait"
            | "union"
            | "unsafe"
            | "async"
            | "const"
            | "macro_rules"
    );
    while let Some(token) = tokens.get(at) {
        at += 1;
        let ends = is_punct(Some(token), ';')
            || !value && item && is_group(Some(token), Delimiter::Brace)
            || !value && !item && is_punct(Some(token), ',');
        if ends {
            break;
        }
    }
    at
}

/// Whether the word at `at` has `pub`, with or without a scope, before it.
fn is_public(tokens: &[TokenTree], at: usize) -> bool {
    let is_pub = |back| word(before(tokens, at, back)).as_deref() == Some("pub");
    is_pub(1) || is_group(before(tokens, at, 1), Delimiter::Parenthesis) && is_pub(2)
}

fn before(tokens: &[TokenTree], at: usize, back: usize) -> Option<&TokenTree> {
    tokens.get(at.checked_sub(back)?)
}

fn word(token: Option<&TokenTree>) -> Option<String> {
    match token? {
        TokenTree::Ident(ident) => Some(ident.to_string().trim_start_matches("r#").to_owned()),
        _ => None,
    }
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn is_group(token: Option<&TokenTree>, wanted: Delimiter) -> bool {
    matches!(token, Some(TokenTree::Group(group)) if group.delimiter() == wanted)
}

fn line(token: &TokenTree) -> usize {
    token.span().start().line
}
