//! From one segment to the next: when the appender leaves one, and what the keeper gets of it (A6, A7, H2).

use super::super::format::{Footer, SegmentHeader};
use super::Appender;
use crate::agent::Context;
use crate::sys::io::{Fd, Ring};

/// Which segment is written, and which has been left.
#[derive(Debug)]
pub(super) struct Rolls {
    /// The file of the last batch that was written.
    pub file: Fd,
    /// What its footer would say.
    pub written: Footer,
    /// The keeper has been asked for a next segment, and that is not begun yet.
    asked: bool,
    /// The segment that was left, until the keeper gets it.
    left: Option<Left>,
}

#[derive(Debug)]
struct Left {
    file: Fd,
    footer: Footer,
    successor: SegmentHeader,
}

impl Rolls {
    pub(super) fn new(file: Fd, written: Footer) -> Self {
        Self { file, written, asked: false, left: None }
    }

    /// Whether no segment waits to be handed over.
    pub(super) fn rest(&self) -> bool {
        self.left.is_none()
    }
}

impl Appender {
    /// Asks for the next segment when this one is half full: so the keeper has as long for it as the half took.
    pub(super) fn ask_for_next_if_due(&mut self) {
        if self.open.file_offset() >= self.segment_bytes / 2 && !self.rolls.asked && !self.is_draining {
            self.rolls.asked = true;
            self.handover.ask_for_next();
        }
    }

    /// An empty batch at the end of a full segment begins the next one, if that is ready, and if nothing of the roll before or of the
    /// ring is left to be done for this one but its last write and sync.
    pub(super) fn roll_if_full<R: Ring>(&mut self, ctx: &Context<'_, R>) {
        let is_full = self.open.is_empty() && self.open.file_offset() >= self.segment_bytes;
        if !is_full || self.rolls.left.is_some() || self.rolls.file != self.open.file() || !self.allocation.rests() {
            return;
        }
        let Some(next) = self.handover.take_next() else { return };
        let end = Footer {
            epoch: self.epoch,
            end_sequence: self.next_sequence,
            chain: self.chain,
            latest_receipt: self.latest_receipt,
            ..self.rolls.written
        };
        let header = SegmentHeader { recycled: next.recycled, ..end.successor(ctx.wall, self.epoch) };
        self.open.begin_segment(next.fd, &header);
        self.producers.begin_snapshot();
        self.allocation.move_on(next.allocated_bytes);
        self.durable_bytes = 0;
        self.rolls.asked = false;
    }

    /// The first batch of a segment is written: the one before it has been left.
    pub(super) fn leave_segment(&mut self, file: Fd, header: SegmentHeader) {
        self.syncs.leave(self.rolls.file);
        let footer = std::mem::replace(&mut self.rolls.written, Footer::of_empty(&header));
        self.rolls.left = Some(Left { file: std::mem::replace(&mut self.rolls.file, file), footer, successor: header });
        self.status.set_segment(header.first_sequence);
    }

    /// Hands a segment that was left to the keeper once nothing is to be synced in it any more.
    pub(super) fn retire_if_done(&mut self) {
        if self.has_failed || self.rolls.left.as_ref().is_none_or(|left| self.syncs.concerns(left.file)) {
            return;
        }
        if let Some(Left { footer, successor, .. }) = self.rolls.left.take() {
            self.handover.retire(footer, successor);
        }
    }
}
