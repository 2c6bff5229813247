//! `Pipeline`: the stages of one body, asked from the end: a stage takes bytes when the one behind it wants some.

use bytes::Bytes;

use crate::edit::{Edit, Edits};
use crate::limits::WORK_BYTES_MAX;
use crate::stage::{OUT_BYTES, Op, Stage};
use crate::{Defect, decode, encode, events, replace};

/// Bytes that the first stage is given at a time.
const IN_BYTES: usize = 32 * 1024;

/// Bytes that wait for a stage, as a rule.
const SLOT_BYTES: usize = IN_BYTES + OUT_BYTES;

/// What came of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pulled {
    /// The next bytes; never none.
    Data(Bytes),
    /// More has to be [`push`](Pipeline::push)ed first, or the [`end`](Pipeline::end) said.
    Starved,
    /// Much was done: let others run, then pull again.
    Tired,
    /// Everything was given.
    Over,
}

/// See the module. After an error it gives nothing but that error.
pub struct Pipeline {
    source: Source,
    slots: Vec<Slot>,
    defect: Option<Defect>,
}

/// What is pushed.
#[derive(Default)]
struct Source {
    waiting: Bytes,
    ended: bool,
    /// Whether stages are to give what they hold back for want of bytes.
    flushing: bool,
    work: usize,
}

/// A stage, and the bytes that wait for it.
struct Slot {
    stage: Box<dyn Stage>,
    input: Vec<u8>,
    at: usize,
    /// The stage has more to give for this before it takes more.
    pending: Option<Op>,
    /// Nothing more waits for it or will.
    ended: bool,
    /// Bytes were taken since the last flush.
    dirty: bool,
    over: bool,
}

/// What a slot was brought to.
enum Made {
    Bytes,
    Starved,
    Tired,
    Over,
}

impl Pipeline {
    /// The stages of these edits.
    pub fn new(edits: &Edits) -> Result<Self, Defect> {
        let Edits { comes_in, changes, leaves_in } = edits;
        // What is neither changed nor taken off stays on.
        let same = comes_in.iter().zip(leaves_in).take_while(|(a, b)| a == b).count();
        let kept = if changes.is_empty() { same } else { 0 };
        let mut stages = Vec::new();
        for coding in comes_in.iter().skip(kept).rev() {
            stages.push(decode::stage(*coding)?);
        }
        for edit in changes {
            stages.push(match edit {
                Edit::Replace(replacement) => replace::stage(replacement),
                Edit::ReplaceInEvents(replacements) => events::stage(replacements),
                Edit::JudgeEvents(rules) => events::judged_stage(rules.begin()),
            });
        }
        for coding in leaves_in.iter().skip(kept) {
            stages.push(encode::stage(*coding)?);
        }
        let slots = stages.into_iter().map(Slot::new).collect();
        Ok(Self { source: Source::default(), slots, defect: None })
    }

    /// The next bytes of the body. Push only when a pull was [`Pulled::Starved`]: what waits already is kept too.
    pub fn push(&mut self, data: Bytes) {
        self.source.flushing = false;
        let waiting = std::mem::take(&mut self.source.waiting);
        self.source.waiting = if waiting.is_empty() { data } else { [waiting, data].concat().into() };
    }

    /// The body is over.
    pub fn end(&mut self) {
        self.source.ended = true;
    }

    /// Bytes of memory that the stages use, or will use as soon as bytes come. It may grow with every pull.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.slots.iter().map(|slot| slot.stage.memory_bytes() + slot.input.capacity().max(SLOT_BYTES)).sum()
    }

    /// No bytes come for now: what is held back for a better coding is to be given. Then pull.
    pub fn flush(&mut self) {
        self.source.flushing = true;
    }

    /// The next bytes for the receiver.
    pub fn pull(&mut self) -> Result<Pulled, Defect> {
        if let Some(defect) = &self.defect {
            return Err(defect.clone());
        }
        self.source.work = 0;
        let mut out = Vec::with_capacity(OUT_BYTES);
        match make(&mut self.slots, &mut self.source, &mut out) {
            Ok(Made::Bytes) => Ok(Pulled::Data(out.into())),
            Ok(Made::Starved) => Ok(Pulled::Starved),
            Ok(Made::Tired) => Ok(Pulled::Tired),
            Ok(Made::Over) => Ok(Pulled::Over),
            Err(defect) => {
                self.defect = Some(defect.clone());
                Err(defect)
            }
        }
    }
}

impl Source {
    fn take(&mut self, out: &mut Vec<u8>) -> Made {
        if self.waiting.is_empty() {
            return if self.ended { Made::Over } else { Made::Starved };
        }
        let length = self.waiting.len().min(IN_BYTES);
        out.extend_from_slice(&self.waiting.split_to(length));
        Made::Bytes
    }
}

impl Slot {
    fn new(stage: Box<dyn Stage>) -> Self {
        let (input, at) = (Vec::new(), 0);
        Self { stage, input, at, pending: None, ended: false, dirty: false, over: false }
    }

    /// Calls the stage once.
    fn step(&mut self, op: Op, source: &mut Source, out: &mut Vec<u8>) -> Result<(), Defect> {
        let input = self.input.get(self.at..).unwrap_or_default();
        let before = out.len();
        let stepped = self.stage.step(input, op, out)?;
        self.at += stepped.taken;
        self.dirty |= stepped.taken > 0;
        source.work += stepped.taken + (out.len() - before) + stepped.work;
        self.pending = stepped.more.then_some(op);
        if !stepped.more && self.at >= self.input.len() {
            self.dirty &= op != Op::Flush;
            self.over |= op == Op::End;
        }
        Ok(())
    }
}

/// Brings the last slot to append bytes to `out`; without slots the source is asked.
fn make(slots: &mut [Slot], source: &mut Source, out: &mut Vec<u8>) -> Result<Made, Defect> {
    let Some((slot, before)) = slots.split_last_mut() else { return Ok(source.take(out)) };
    loop {
        if slot.over {
            return Ok(Made::Over);
        }
        if source.work > WORK_BYTES_MAX {
            return Ok(Made::Tired);
        }
        let waits = slot.at < slot.input.len();
        let op = match slot.pending {
            Some(op) => op,
            None if waits => Op::Run,
            None if slot.ended => Op::End,
            None => {
                slot.input.clear();
                slot.at = 0;
                match make(before, source, &mut slot.input)? {
                    Made::Bytes => continue,
                    Made::Over => {
                        slot.ended = true;
                        continue;
                    }
                    Made::Starved if source.flushing && slot.dirty => Op::Flush,
                    other => return Ok(other),
                }
            }
        };
        slot.step(op, source, out)?;
        if !out.is_empty() {
            return Ok(Made::Bytes);
        }
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("stages", &self.slots.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
