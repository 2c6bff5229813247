//! `Program`: rules ready to run, by phase, made of the directives that the engine's parser read.

use std::collections::{BTreeMap, BTreeSet};

use zentinel_modsec::parser::{
    Action, DataAction, Directive, FlowAction, MetadataAction, RuleIdSelector, SecRule, SetVarSpec,
    SetVarValue, UpdateTargetById,
};

use crate::control::Control;
use crate::error::EngineError;
use crate::operator::Operator;
use crate::rules::EXCLUDABLE;
use crate::target::{Exclusion, Target};
use crate::text::severity;
use crate::transform::Transform;

/// Part of the names of variables that scores are summed in.
const SCORE: &str = "anomaly_score";
/// The phases that judge: heads and bodies of requests and of responses.
pub(crate) const PHASES: usize = 4;

/// See the module.
#[derive(Default)]
pub(crate) struct Program {
    phases: [Vec<Rule>; PHASES],
    /// Where each marker stands in each phase.
    markers: BTreeMap<String, [usize; PHASES]>,
}

/// A rule; one with `chain` and those that follow it are one.
#[derive(Default)]
pub(crate) struct Rule {
    /// None: a rule without a number of 32 bits.
    pub(crate) id: Option<u32>,
    pub(crate) tags: Vec<String>,
    pub(crate) links: Vec<Link>,
    /// The marker at which the phase goes on when it matches.
    pub(crate) skips_to: Option<String>,
    pub(crate) message: String,
    pub(crate) severity: &'static str,
    pub(crate) data: String,
    version: String,
    has_severity: bool,
    /// A pattern of it cannot be read: it never matches.
    pub(crate) is_dead: bool,
    /// It finds something and adds to a score.
    pub(crate) scores: bool,
}

/// One test and what follows from it.
pub(crate) struct Link {
    /// None: it matches always.
    pub(crate) test: Option<Test>,
    pub(crate) sets: Vec<SetVarSpec>,
    pub(crate) controls: Vec<Control>,
    /// What is found becomes the variables `TX:0` to `TX:9`.
    pub(crate) captures: bool,
}

/// What is looked at, and how.
pub(crate) struct Test {
    pub(crate) targets: Vec<Target>,
    pub(crate) transforms: Vec<Transform>,
    /// The operator sees the value between transformations too.
    pub(crate) multi_match: bool,
    pub(crate) operator: Operator,
    pub(crate) negated: bool,
}

impl Program {
    pub(crate) fn compile(directives: &[Directive]) -> Result<Self, EngineError> {
        let mut program = Self::default();
        let removed: Vec<RuleIdSelector> = directives
            .iter()
            .filter_map(|directive| match directive {
                Directive::SecRuleRemoveById(ids) => Some(ids),
                _ => None,
            })
            .flatten()
            .copied()
            .collect();
        let mut chain: Option<(usize, Rule)> = None;
        for directive in directives {
            match directive {
                Directive::SecRule(rule) => {
                    let (phase, mut whole) =
                        chain.take().unwrap_or_else(|| (phase_of(&rule.actions), Rule::about(&rule.actions)));
                    whole.add(rule).map_err(|error| EngineError(format!("{}: {error}", rule.location)))?;
                    if rule.is_chained() {
                        chain = Some((phase, whole));
                    } else {
                        program.push(phase, whole, &removed);
                    }
                }
                Directive::SecAction(action) => {
                    let mut rule = Rule::about(&action.actions);
                    let link = Link::about(&action.actions, None);
                    rule.links
                        .push(link.map_err(|error| EngineError(format!("{}: {error}", action.location)))?);
                    program.push(phase_of(&action.actions), rule, &removed);
                }
                Directive::SecMarker(marker) => {
                    let here = [0, 1, 2, 3].map(|phase| program.rules(phase).len());
                    program.markers.insert(marker.name.clone(), here);
                }
                _ => {}
            }
        }
        for directive in directives {
            if let Directive::SecRuleUpdateTargetById(update) = directive {
                program.update(update)?;
            }
        }
        Ok(program)
    }

    fn push(&mut self, phase: usize, mut rule: Rule, removed: &[RuleIdSelector]) {
        rule.scores = rule.adds_to_score();
        let is_removed = rule.id.is_some_and(|id| removed.iter().any(|ids| ids.matches(id.into())));
        if let Some(rules) = self.phases.get_mut(phase).filter(|_| !is_removed) {
            rules.push(rule);
        }
    }

    /// Changes the targets of the first link of rules, as `SecRuleUpdateTargetById` says.
    fn update(&mut self, update: &UpdateTargetById) -> Result<(), EngineError> {
        let failed = |error: EngineError| EngineError(format!("{}: {error}", update.location));
        let replaced = update.replaced.as_deref().map(Exclusion::read).transpose().map_err(failed)?;
        for rule in self.phases.iter_mut().flatten() {
            let is_meant = rule.id.is_some_and(|id| update.ids.iter().any(|ids| ids.matches(id.into())));
            let test = rule.links.first_mut().and_then(|link| link.test.as_mut());
            let Some(test) = test.filter(|_| is_meant) else { continue };
            if let Some(replaced) = &replaced {
                test.targets.retain(|target| !target.is(replaced));
            }
            for exclusion in &update.exclusions {
                for target in &mut test.targets {
                    target.exclude(exclusion).map_err(failed)?;
                }
            }
            for addition in &update.additions {
                test.targets.push(Target::compile(addition).map_err(failed)?);
            }
        }
        Ok(())
    }

    /// The rules of a phase, counted from 0.
    pub(crate) fn rules(&self, phase: usize) -> &[Rule] {
        self.phases.get(phase).map_or(&[], Vec::as_slice)
    }

    /// Where a marker stands in a phase; at its end if there is none.
    pub(crate) fn marker(&self, name: &str, phase: usize) -> usize {
        let at = self.markers.get(name).and_then(|places| places.get(phase));
        at.copied().unwrap_or(usize::MAX)
    }

    /// The rules of the operator that a policy may leave out.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = (u32, &Rule)> {
        let rules = self.phases.iter().flatten();
        rules.filter_map(|rule| Some((rule.id.filter(|id| EXCLUDABLE.contains(&u64::from(*id)))?, rule)))
    }

    /// Numbers of rules with a pattern that cannot be read.
    pub(crate) fn dead(&self) -> BTreeSet<u32> {
        self.numbered().filter(|(_, rule)| rule.is_dead).map(|(id, _)| id).collect()
    }

    /// The version that rules name.
    pub(crate) fn version(&self) -> &str {
        let versions = self.phases.iter().flatten().map(|rule| rule.version.as_str());
        versions.into_iter().find(|version| !version.is_empty()).unwrap_or_default()
    }
}

impl Rule {
    /// What the actions of its first link say of it.
    fn about(actions: &[Action]) -> Self {
        let mut rule = Self { severity: severity(None), ..Self::default() };
        for action in actions {
            match action {
                Action::Metadata(MetadataAction::Id(id)) => rule.id = u32::try_from(*id).ok(),
                Action::Metadata(MetadataAction::Tag(tag)) => rule.tags.push(tag.clone()),
                Action::Metadata(MetadataAction::Msg(text)) => rule.message.clone_from(text),
                Action::Metadata(MetadataAction::LogData(text)) => rule.data.clone_from(text),
                Action::Metadata(MetadataAction::Ver(text)) => rule.version.clone_from(text),
                Action::Metadata(MetadataAction::Severity(number)) => {
                    (rule.severity, rule.has_severity) = (severity(Some(*number)), true);
                }
                Action::Flow(FlowAction::SkipAfter(marker)) => rule.skips_to = Some(marker.clone()),
                _ => {}
            }
        }
        rule
    }

    fn add(&mut self, rule: &SecRule) -> Result<(), EngineError> {
        let (operator, is_read) = Operator::compile(&rule.operator)?;
        self.is_dead |= !is_read;
        let mut transforms = Vec::new();
        for action in &rule.actions {
            if let Action::Transformation(name) = action {
                match Transform::named(name)? {
                    Some(transform) => transforms.push(transform),
                    None => transforms.clear(),
                }
            }
        }
        let multi_match = |action: &Action| matches!(action, Action::Flow(FlowAction::MultiMatch));
        let test = Test {
            targets: rule.variables.iter().map(Target::compile).collect::<Result<_, _>>()?,
            transforms,
            multi_match: rule.actions.iter().any(multi_match),
            operator,
            negated: rule.operator.negated,
        };
        self.links.push(Link::about(&rule.actions, Some(test))?);
        Ok(())
    }

    fn adds_to_score(&self) -> bool {
        let adds = |set: &SetVarSpec| {
            let increases = match &set.value {
                SetVarValue::Increment(_) => true,
                SetVarValue::Macro(value) => value.starts_with('+'),
                _ => false,
            };
            increases && set.key.to_ascii_lowercase().contains(SCORE)
        };
        self.has_severity && self.links.iter().flat_map(|link| &link.sets).any(adds)
    }
}

impl Link {
    fn about(actions: &[Action], test: Option<Test>) -> Result<Self, EngineError> {
        let mut link = Self { test, sets: Vec::new(), controls: Vec::new(), captures: false };
        for action in actions {
            match action {
                Action::Data(DataAction::SetVar(set)) if set.collection.eq_ignore_ascii_case("tx") => {
                    link.sets.push(set.clone());
                }
                Action::Data(DataAction::Capture) => link.captures = true,
                Action::Control(control) => link.controls.extend(Control::read(control)?),
                _ => {}
            }
        }
        Ok(link)
    }
}

/// The phase of these actions, counted from 0.
fn phase_of(actions: &[Action]) -> usize {
    let phase = actions.iter().find_map(|action| match action {
        Action::Metadata(MetadataAction::Phase(phase)) => Some(usize::from(*phase)),
        _ => None,
    });
    phase.unwrap_or(2).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zentinel_modsec::parser::Parser;

    #[test]
    fn directives_take_rules_away_and_change_their_targets() {
        let text = "SecRule ARGS:a|ARGS:b \"@contains x\" \"id:942001,phase:2,chain\"\n\
            SecRule ARGS \"@contains y\" \"setvar:'tx.anomaly_score=+5'\"\n\
            SecRule ARGS \"@rx (\" \"id:942002,phase:2,ver:'CRS/9',severity:'ERROR',setvar:'tx.anomaly_score=+5'\"\n\
            SecRule ARGS \"@contains x\" \"id:942003,phase:2,chain\"\nSecRule ARGS \"@contains y\" \"t:none\"\n\
            SecMarker END\n\
            SecRuleRemoveById 942003\n\
            SecRuleUpdateTargetById 942001 \"REQUEST_BODY\" \"ARGS:B\"\n";
        let mut parser = Parser::new();
        parser.parse(text).unwrap();
        let program = Program::compile(parser.directives()).unwrap();
        let ids: Vec<u32> = program.numbered().map(|(id, _)| id).collect();
        assert_eq!(ids, [942_001, 942_002]);
        let [chain, dead] = program.rules(1) else { panic!("two rules are left") };
        assert_eq!((chain.links.len(), chain.links[0].test.as_ref().unwrap().targets.len()), (2, 2));
        assert!(!chain.scores && dead.scores && dead.is_dead, "the chain has no severity");
        assert_eq!((program.dead(), program.version()), (BTreeSet::from([942_002]), "CRS/9"));
        assert_eq!((program.marker("END", 1), program.marker("NONE", 1)), (2, usize::MAX));
    }
}
