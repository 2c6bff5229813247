//! Controls (`ctl:`): what a rule that matches changes for the rest of the message.

use zentinel_modsec::parser::ControlAction;

use crate::error::EngineError;
use crate::target::Exclusion;

/// One control.
pub(crate) enum Control {
    /// No rule runs any more.
    Off,
    /// Rules that do not run.
    Remove(Rules),
    /// Values that rules do not see.
    Exclude(Rules, Exclusion),
    /// How the body is taken apart.
    Processor(&'static str),
}

/// Some rules.
pub(crate) enum Rules {
    /// From this number to that.
    Ids(u32, u32),
    /// Those with a tag that holds this text.
    Tag(String),
}

impl Rules {
    /// Whether a rule of this number and these tags is one of them.
    pub(crate) fn have(&self, id: Option<u32>, tags: &[String]) -> bool {
        match self {
            Self::Ids(first, last) => id.is_some_and(|id| (*first..=*last).contains(&id)),
            Self::Tag(text) => tags.iter().any(|tag| tag.contains(text.as_str())),
        }
    }

    /// Reads `942100`, or `942100-942999`.
    fn ids(text: &str) -> Result<Self, EngineError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let id = |text: &str| text.trim().parse().ok();
        match (id(first), id(last)) {
            (Some(first), Some(last)) => Ok(Self::Ids(first, last)),
            _ => Err(EngineError(format!("`{text}` is neither the number of a rule nor a range"))),
        }
    }
}

impl Control {
    /// Reads one. None: it is about logs or how much of a body is held, which is the edge's, or changes nothing here.
    pub(crate) fn read(action: &ControlAction) -> Result<Option<Self>, EngineError> {
        let value = action.value.trim();
        let target = || value.split_once(';').map(|(rules, target)| (rules, Exclusion::read(target)));
        let no_target = || EngineError(format!("ctl:{}={value} names no target", action.directive));
        Ok(Some(match action.directive.to_ascii_lowercase().as_str() {
            "ruleengine" if value.eq_ignore_ascii_case("off") => Self::Off,
            "ruleremovebyid" => Self::Remove(Rules::ids(value)?),
            "ruleremovebytag" => Self::Remove(Rules::Tag(value.to_owned())),
            "ruleremovetargetbyid" => {
                let (ids, exclusion) = target().ok_or_else(no_target)?;
                Self::Exclude(Rules::ids(ids)?, exclusion?)
            }
            "ruleremovetargetbytag" => {
                let (tag, exclusion) = target().ok_or_else(no_target)?;
                Self::Exclude(Rules::Tag(tag.to_owned()), exclusion?)
            }
            "requestbodyprocessor" => Self::Processor(match value.to_ascii_uppercase().as_str() {
                "URLENCODED" => "URLENCODED",
                "MULTIPART" => "MULTIPART",
                "JSON" => "JSON",
                "XML" => "XML",
                _ => return Err(EngineError(format!("there is no body processor `{value}`"))),
            }),
            "ruleengine"
            | "auditengine"
            | "auditlogparts"
            | "forcerequestbodyvariable"
            | "requestbodyaccess"
            | "requestbodylimit"
            | "responsebodyaccess"
            | "responsebodylimit"
            | "debugloglevel" => return Ok(None),
            other => return Err(EngineError(format!("ctl:{other} is not known here"))),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_read_or_refused() {
        let read = |directive: &str, value: &str| {
            Control::read(&ControlAction { directive: directive.into(), value: value.into() })
        };
        assert!(matches!(read("ruleEngine", "Off"), Ok(Some(Control::Off))));
        assert!(matches!(read("ruleEngine", "DetectionOnly"), Ok(None)));
        assert!(matches!(
            read("ruleRemoveById", "942100-942999"),
            Ok(Some(Control::Remove(Rules::Ids(942_100, 942_999))))
        ));
        assert!(matches!(
            read("ruleRemoveTargetByTag", "OWASP_CRS;ARGS:pass"),
            Ok(Some(Control::Exclude(..)))
        ));
        for (directive, value) in [
            ("ruleRemoveById", "x"),
            ("ruleRemoveTargetById", "942100"),
            ("ruleRemoveTargetById", "942100;UNHEARD:x"),
            ("requestBodyProcessor", "CSV"),
            ("unheard", "1"),
        ] {
            assert!(read(directive, value).is_err(), "{directive}={value}");
        }
    }
}
