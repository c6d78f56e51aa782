//! Colours of charts and pages, by day and by night.
//!
//! Elements carry the colours of the day as attributes, so that a chart taken out of its page is whole, and a class; where the reader's
//! system is dark, the page's style sheet, which goes before attributes, gives the class another colour.

use std::fmt::Write as _;

use crate::control::Level;

/// A colour by day and by night, and the class that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Color {
    pub(super) class: &'static str,
    pub(super) day: &'static str,
    night: &'static str,
}

const fn color(class: &'static str, day: &'static str, night: &'static str) -> Color {
    Color { class, day, night }
}

/// Of lines and bars. Told apart by colour-blind eyes too: by day those of Okabe and Ito (2008), yellow left out, and ink; by night the same
/// hues, light enough for the dark.
pub(super) const LINES: [Color; 7] = [
    color("c0", "#0072b2", "#3f8fd6"),
    color("c1", "#d55e00", "#e8743b"),
    color("c2", "#009e73", "#2bbf8f"),
    color("c3", "#cc79a7", "#d88ab8"),
    color("c4", "#e69f00", "#f5cf5a"),
    color("c5", "#56b4e9", "#8fd0ff"),
    color("c6", "#333333", "#ffffff"),
];

/// Behind everything, by level.
pub(super) const TINTS: [Color; Level::COUNT] = [
    color("t0", "#f1f8f1", "#182a1c"),
    color("t1", "#fdf6d8", "#33300f"),
    color("t2", "#fde4c4", "#432d12"),
    color("t3", "#fccfc0", "#4d2218"),
    color("t4", "#efb4c4", "#581a2e"),
];

/// What a chart stands on.
pub(super) const PAPER: Color = color("paper", "#ffffff", "#16181b");
/// Titles.
pub(super) const INK: Color = color("ink", "#222222", "#ececec");
/// Labels.
pub(super) const LABEL: Color = color("label", "#555555", "#b4b8bd");
/// Lines of the grid.
pub(super) const GRID: Color = color("grid", "#dddddd", "#33373c");
/// Axes and marks.
pub(super) const AXIS: Color = color("axis", "#555555", "#9aa0a6");

impl Color {
    /// Attributes of something that is filled.
    pub(super) fn fill(self) -> String {
        format!("class=\"f-{}\" fill=\"{}\"", self.class, self.day)
    }

    /// Attributes of a line.
    pub(super) fn stroke(self) -> String {
        format!("class=\"s-{}\" stroke=\"{}\"", self.class, self.day)
    }
}

/// The part of a page's style sheet that is for the dark.
pub(super) fn night() -> String {
    let mut rules = String::new();
    for color in LINES.into_iter().chain(TINTS).chain([PAPER, INK, LABEL, GRID, AXIS]) {
        // Writing to a string can't fail.
        let _ = write!(rules, ".f-{0}{{fill:{1}}}.s-{0}{{stroke:{1}}}", color.class, color.night);
    }
    format!("@media (prefers-color-scheme:dark){{{rules}}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance, as the Web Content Accessibility Guidelines 2 define it.
    fn luminance(hex: &str) -> f64 {
        let channel = |place: usize| {
            let value = f64::from(u8::from_str_radix(&hex[place..place + 2], 16).expect("two hexadecimal digits")) / 255.0;
            if value <= 0.03928 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
    }

    fn contrast(a: &str, b: &str) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn text_can_be_read_on_paper_and_on_every_tint() {
        for ground in TINTS.into_iter().chain([PAPER]) {
            for text in [INK, LABEL] {
                assert!(contrast(text.day, ground.day) >= 4.0, "{text:?} on {ground:?} by day");
                assert!(contrast(text.night, ground.night) >= 4.0, "{text:?} on {ground:?} by night");
            }
        }
    }

    #[test]
    fn lines_stand_out_from_the_paper() {
        for line in LINES {
            // 2: the lightest of the day, which is a line of two pixels and never text.
            assert!(contrast(line.day, PAPER.day) >= 2.0, "{line:?} by day");
            assert!(contrast(line.night, PAPER.night) >= 4.0, "{line:?} by night");
        }
    }

    #[test]
    fn every_class_has_a_colour_for_the_night() {
        let night = night();
        for color in LINES.into_iter().chain(TINTS).chain([PAPER, INK, LABEL, GRID, AXIS]) {
            assert!(night.contains(&format!(".f-{}{{fill:{}}}", color.class, color.night)), "{color:?}");
        }
    }
}
