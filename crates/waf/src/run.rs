//! `Run`: the rules over one message, phase by phase. Whatever rules say of it, the message is judged to its end.

use std::borrow::Cow;
use std::collections::BTreeMap;

use zentinel_modsec::parser::{SetVarSpec, SetVarValue};

use crate::control::Control;
use crate::error::EngineError;
use crate::found::Pairs;
use crate::message::Message;
use crate::operator::{Found, number};
use crate::program::{Link, Program, Rule, Test};
use crate::protocol::MatchedRule;
use crate::target::{Exclusion, Seen};
use crate::text::cut;
use crate::tx::Tx;

/// See the module.
pub(crate) struct Run<'p> {
    program: &'p Program,
    pub(crate) message: Message,
    pub(crate) tx: Tx,
    /// Names and values that the rule in hand matched.
    vars: Pairs,
    /// Rules that the policy leaves out.
    exclude: &'p [u32],
    /// What rules have changed.
    controls: Vec<&'p Control>,
    /// A rule has switched the rules off.
    is_off: bool,
    /// Rules with a score that matched, with what they say.
    pub(crate) matched: BTreeMap<u32, MatchedRule>,
}

/// A value that an operator found something in.
struct Hit {
    name: String,
    value: Vec<u8>,
    found: Found,
}

impl<'p> Run<'p> {
    /// A run that leaves out rules.
    pub(crate) fn new(program: &'p Program, message: Message, exclude: &'p [u32]) -> Self {
        Self {
            program,
            message,
            tx: Tx::default(),
            vars: Vec::new(),
            exclude,
            controls: Vec::new(),
            is_off: false,
            matched: BTreeMap::new(),
        }
    }

    /// Runs the rules of a phase, counted from 0.
    pub(crate) fn phase(&mut self, phase: usize) -> Result<(), EngineError> {
        let rules = self.program.rules(phase);
        let mut index = 0;
        while let Some(rule) = rules.get(index).filter(|_| !self.is_off) {
            index += 1;
            if self.is_removed(rule) {
                continue;
            }
            let matches = self.rule(rule).map_err(|error| match rule.id {
                Some(id) => EngineError(format!("rule {id}: {error}")),
                None => error,
            })?;
            if let Some(marker) = rule.skips_to.as_ref().filter(|_| matches) {
                index = index.max(self.program.marker(marker, phase));
            }
        }
        Ok(())
    }

    fn is_removed(&self, rule: &Rule) -> bool {
        let removes = |control: &&Control| match control {
            Control::Remove(rules) => rules.have(rule.id, &rule.tags),
            _ => false,
        };
        rule.id.is_some_and(|id| self.exclude.contains(&id)) || self.controls.iter().any(removes)
    }

    fn rule(&mut self, rule: &'p Rule) -> Result<bool, EngineError> {
        self.vars.clear();
        for link in &rule.links {
            if !self.link(rule, link)? {
                return Ok(false);
            }
        }
        if let Some(id) = rule.id.filter(|_| rule.scores) {
            let told = self.told(id, rule);
            self.matched.entry(id).or_insert(told);
        }
        Ok(true)
    }

    fn link(&mut self, rule: &'p Rule, link: &'p Link) -> Result<bool, EngineError> {
        let Some(test) = &link.test else {
            self.act(rule, link);
            return Ok(true);
        };
        let hits = self.hits(rule, link, test)?;
        let matches = !hits.is_empty();
        for Hit { name, value, found } in hits {
            if link.captures && !test.negated {
                self.tx.capture(&found);
            }
            self.vars.push((name.into_bytes(), value));
            self.act(rule, link);
        }
        Ok(matches)
    }

    fn hits(&self, rule: &Rule, link: &Link, test: &Test) -> Result<Vec<Hit>, EngineError> {
        let seen = self.seen();
        let excluded = self.controls.iter().filter_map(|control| match control {
            Control::Exclude(rules, exclusion) if rules.have(rule.id, &rule.tags) => Some(exclusion),
            _ => None,
        });
        let also: Vec<&Exclusion> = excluded.collect();
        let mut hits = Vec::new();
        for item in test.targets.iter().flat_map(|target| target.items(&seen, &also)) {
            let mut value = Cow::Borrowed(item.value.as_ref());
            let mut found = None;
            let find = |value: &[u8]| {
                let found = test.operator.find(value, link.captures, |text| self.filled(text, rule))?;
                Ok::<_, EngineError>(match (found, test.negated) {
                    (found, false) => found,
                    (None, true) => Some(Vec::new()),
                    (Some(_), true) => None,
                })
            };
            for transform in &test.transforms {
                if test.multi_match && found.is_none() {
                    found = find(&value)?;
                    if found.is_some() {
                        break;
                    }
                }
                if let Some(after) = transform.apply(&value) {
                    value = Cow::Owned(after);
                }
            }
            if found.is_none() {
                found = find(&value)?;
            }
            if let Some(found) = found {
                hits.push(Hit { name: item.name(), value: value.into_owned(), found });
            }
        }
        Ok(hits)
    }

    fn seen(&self) -> Seen<'_> {
        Seen { message: &self.message, tx: &self.tx, matched: &self.vars }
    }

    fn act(&mut self, rule: &'p Rule, link: &'p Link) {
        for set in &link.sets {
            self.set(set, rule);
        }
        for control in &link.controls {
            match control {
                Control::Off => self.is_off = true,
                Control::Processor(processor) => self.message.processor = processor,
                Control::Remove(_) | Control::Exclude(..) => self.controls.push(control),
            }
        }
    }

    fn set(&mut self, set: &SetVarSpec, rule: &Rule) {
        let name = String::from_utf8_lossy(&self.filled(&set.key, rule)).into_owned();
        match &set.value {
            SetVarValue::String(value) => self.tx.set(&name, value.clone().into_bytes()),
            SetVarValue::Int(value) => self.tx.set(&name, value.to_string().into_bytes()),
            SetVarValue::Increment(by) => self.tx.add(&name, *by),
            SetVarValue::Decrement(by) => self.tx.add(&name, by.saturating_neg()),
            SetVarValue::Delete => self.tx.remove(&name),
            SetVarValue::Macro(text) => {
                let value = |text: &str| self.filled(text, rule);
                match (text.strip_prefix('+'), text.strip_prefix('-')) {
                    (Some(by), _) => self.tx.add(&name, number(&value(by))),
                    (_, Some(by)) => self.tx.add(&name, number(&value(by)).saturating_neg()),
                    _ => self.tx.set(&name, value(text)),
                }
            }
        }
    }

    /// A text with its macros, `%{...}`, filled in; what is not known becomes nothing.
    fn filled(&self, text: &str, rule: &Rule) -> Vec<u8> {
        let mut filled = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("%{") {
            filled.extend_from_slice(before.as_bytes());
            let Some((name, after)) = after.split_once('}') else {
                rest = "";
                break;
            };
            let (collection, key) =
                name.split_once('.').map_or((name, None), |(name, key)| (name, Some(key)));
            match (collection.to_ascii_lowercase().as_str(), key) {
                ("tx", Some(key)) => filled.extend_from_slice(self.tx.get(key).unwrap_or_default()),
                ("rule", Some("msg")) => filled.extend_from_slice(rule.message.as_bytes()),
                ("rule", _) => {}
                _ => {
                    let value = self.seen().variable(collection, key);
                    filled.extend_from_slice(value.as_deref().unwrap_or_default());
                }
            }
            rest = after;
        }
        filled.extend_from_slice(rest.as_bytes());
        filled
    }

    /// What a rule says of its match.
    fn told(&self, id: u32, rule: &Rule) -> MatchedRule {
        let text = |text: &str| cut(String::from_utf8_lossy(&self.filled(text, rule)).into_owned());
        let data = if rule.data.is_empty() { "%{MATCHED_VAR} in %{MATCHED_VAR_NAME}" } else { &rule.data };
        MatchedRule { id, message: text(&rule.message), severity: rule.severity.to_owned(), data: text(data) }
    }
}
