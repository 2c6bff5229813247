//! `ebbgate config add-…`: sets one key of the `agent:` section in the file's own text, so that comments, order and
//! everything else stay as their author left them.

use std::path::Path;
use std::sync::Arc;

use super::tree::{self, Place, Value};

/// The file cannot be changed by a program.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It is not YAML.
    #[error("{place}: {message}; mend the file first")]
    Syntax {
        /// Where.
        place: Place,
        /// What the parser said.
        message: String,
    },
    /// `agent` is written in a form this edit cannot extend.
    #[error("{0}: write `agent:` as a block with one key per line; then this command can change it")]
    Form(Place),
}

/// The text of `file` with `agent.<key>` set to `value`. Empty text becomes a whole new file.
pub fn set_agent_key(file: &Path, text: &str, key: &str, value: &str) -> Result<String, EditError> {
    let file: Arc<Path> = file.into();
    let line = format!("  {key}: {}\n", quoted(value));
    if text.trim().is_empty() {
        return Ok(format!("version: 3\nagent:\n{line}"));
    }
    let root = tree::parse(&file, text)
        .map_err(|error| EditError::Syntax { place: error.place, message: error.message })?;
    let Value::Map(top) = &root.value else { return Err(EditError::Form(root.place)) };
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let Some(agent) = top.iter().find(|entry| entry.key == "agent") else {
        let gap = if text.ends_with('\n') { "" } else { "\n" };
        return Ok(format!("{text}{gap}agent:\n{line}"));
    };
    let inside = match &agent.node.value {
        Value::Map(inside) => inside.as_slice(),
        Value::Null => &[],
        _ => return Err(EditError::Form(agent.node.place.clone())),
    };
    // A block's keys stand below `agent:`; a flow mapping's on the same line.
    if inside.iter().any(|entry| entry.place.line == agent.place.line) {
        return Err(EditError::Form(agent.node.place.clone()));
    }
    let indent = inside.first().map_or(2, |entry| entry.place.column.saturating_sub(1));
    let line =
        format!("{:indent$}{key}: {}\n", "", quoted(value), indent = usize::try_from(indent).unwrap_or(2));
    let (from, to) = match inside.iter().find(|entry| entry.key == key) {
        Some(old) if !matches!(old.node.value, Value::List(_) | Value::Map(_)) => {
            (index(old.place.line), index(old.place.line) + 1)
        }
        Some(old) => return Err(EditError::Form(old.place.clone())),
        None => (index(agent.place.line) + 1, index(agent.place.line) + 1),
    };
    let (Some(before), Some(after)) = (lines.get(..from), lines.get(to..)) else {
        return Err(EditError::Form(agent.place.clone()));
    };
    let gap = if before.last().is_some_and(|line| !line.ends_with('\n')) { "\n" } else { "" };
    let edited = format!("{}{gap}{line}{}", before.concat(), after.concat());
    // A value that spanned lines would leave its tail behind: read the result back before anybody trusts it.
    match tree::parse(&file, &edited) {
        Ok(root) if is_text(&root.descend(&format!("agent.{key}")).value, value) => Ok(edited),
        _ => Err(EditError::Form(agent.place.clone())),
    }
}

fn index(line: u32) -> usize {
    usize::try_from(line).unwrap_or(usize::MAX).saturating_sub(1)
}

fn is_text(value: &Value, expect: &str) -> bool {
    matches!(value, Value::Text(text) if text == expect)
}

/// A double-quoted scalar: safe for every value these keys take.
fn quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_one_key_and_touches_nothing_else() {
        let check = |text: &str, expect: &str| {
            assert_eq!(set_agent_key(Path::new("a.yml"), text, "authtoken", "T").unwrap(), expect, "{text}");
        };
        check("", "version: 3\nagent:\n  authtoken: \"T\"\n");
        check("version: 3", "version: 3\nagent:\n  authtoken: \"T\"\n");
        check("version: 3\nagent:\n", "version: 3\nagent:\n  authtoken: \"T\"\n");
        check(
            "version: 3\nagent: # who\n    metadata: m\nendpoints: []\n",
            "version: 3\nagent: # who\n    authtoken: \"T\"\n    metadata: m\nendpoints: []\n",
        );
        check(
            "agent:\n  metadata: m\n  authtoken: old # secret\nversion: 3\n",
            "agent:\n  metadata: m\n  authtoken: \"T\"\nversion: 3\n",
        );
    }

    #[test]
    fn refuses_forms_it_cannot_edit() {
        for text in [
            "agent: {authtoken: x}\n",
            "agent: text\n",
            "- a\n",
            "agent:\n  authtoken: >\n    old\n    er\n",
            "a: [\n",
        ] {
            assert!(set_agent_key(Path::new("a.yml"), text, "authtoken", "T").is_err(), "{text}");
        }
    }
}
