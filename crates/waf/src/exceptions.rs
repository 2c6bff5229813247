//! Directives that take rules or targets away by tag, which the engine's parser does not know: as controls that run first. Pure.

/// The rule that does what the directive says; none: it is another directive.
pub(crate) fn as_rule(directive: &str) -> Result<Option<String>, String> {
    let mut words = directive.split_whitespace().map(|word| word.trim_matches(['"', '\'']));
    let name = words.next().unwrap_or_default().to_ascii_lowercase();
    let words: Vec<&str> = words.collect();
    let controls = match (name.as_str(), words.as_slice()) {
        ("secruleremovebytag", tags) if !tags.is_empty() => {
            tags.iter().map(|tag| Ok(format!("ctl:ruleRemoveByTag={}", plain(tag)?))).collect()
        }
        ("secruleupdatetargetbytag", [tag, targets]) => targets
            .split('|')
            .map(|target| {
                let left_out = target.strip_prefix('!');
                let left_out = left_out.ok_or("only targets with `!` before them can be named here")?;
                Ok(format!("ctl:ruleRemoveTargetByTag={};{left_out}", plain(tag)?))
            })
            .collect(),
        ("secruleremovebytag" | "secruleupdatetargetbytag", _) => {
            Err("it names too little or too much".to_owned())
        }
        _ => return Ok(None),
    };
    let controls: Result<Vec<String>, String> = controls;
    Ok(Some(format!("SecAction \"phase:1,pass,nolog,{}\"\n", controls?.join(","))))
}

/// A tag, which is no pattern.
fn plain(tag: &str) -> Result<&str, String> {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '/' | ':');
    if tag.chars().all(is_plain) {
        Ok(tag)
    } else {
        Err(format!("`{tag}`: tags are named here, not patterns"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_by_tag_become_controls() {
        let check = |directive: &str, rule: &str| {
            assert_eq!(as_rule(directive), Ok(Some(format!("SecAction \"phase:1,pass,nolog,{rule}\"\n"))));
        };
        check("SecRuleRemoveByTag \"attack-sqli\"", "ctl:ruleRemoveByTag=attack-sqli");
        check(
            "SecRuleUpdateTargetByTag OWASP_CRS \"!ARGS:pass|!REQUEST_COOKIES:/^a/\"",
            "ctl:ruleRemoveTargetByTag=OWASP_CRS;ARGS:pass,ctl:ruleRemoveTargetByTag=OWASP_CRS;REQUEST_COOKIES:/^a/",
        );
        assert_eq!(as_rule("SecRule ARGS \"@rx a\" \"id:1\""), Ok(None));
        for bad in ["SecRuleRemoveByTag", "SecRuleRemoveByTag a.*", "SecRuleUpdateTargetByTag a ARGS:b"] {
            assert!(as_rule(bad).is_err(), "{bad}");
        }
    }
}
