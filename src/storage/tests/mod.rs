//! Tests of the parts of this folder together.

mod appender;
mod dead_letter;
mod folder;
mod producers;
mod recovery;
mod segments;
mod sessions;
