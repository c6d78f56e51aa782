//! The memory budget: every holder of memory one line of a sum, printed at start and refused before anything is mapped.

#![forbid(unsafe_code)]

use std::fmt;

/// One holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetLine {
    /// What holds the memory.
    pub name: String,
    /// The flag that sizes it, if one does.
    pub flag: Option<&'static str>,
    /// How many pieces.
    pub count: u64,
    /// Bytes of a piece.
    pub bytes_each: u64,
}

impl BudgetLine {
    /// Bytes of all its pieces; `u64::MAX` where that overflows, which no host has.
    pub fn bytes(&self) -> u64 {
        self.count.saturating_mul(self.bytes_each)
    }
}

/// The sum of all holders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    lines: Vec<BudgetLine>,
}

impl Budget {
    /// An empty sum.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a holder that no flag sizes. A holder of nothing gets no line.
    pub fn add(&mut self, name: impl Into<String>, count: u64, bytes_each: u64) {
        self.push(name.into(), None, count, bytes_each);
    }

    /// Adds a holder that `flag` sizes, so that a refusal can name it.
    pub fn add_for_flag(&mut self, name: impl Into<String>, flag: &'static str, count: u64, bytes_each: u64) {
        self.push(name.into(), Some(flag), count, bytes_each);
    }

    fn push(&mut self, name: String, flag: Option<&'static str>, count: u64, bytes_each: u64) {
        let line = BudgetLine { name, flag, count, bytes_each };
        if line.bytes() > 0 {
            self.lines.push(line);
        }
    }

    /// Adds another part's lines behind these (a node's to the host's).
    pub fn extend(&mut self, other: Budget) {
        self.lines.extend(other.lines);
    }

    /// All holders, in the order they were added.
    pub fn lines(&self) -> &[BudgetLine] {
        &self.lines
    }

    /// Bytes of all holders; `u64::MAX` where that overflows.
    pub fn total_bytes(&self) -> u64 {
        self.lines.iter().fold(0, |sum, line| sum.saturating_add(line.bytes()))
    }

    /// Whether the host (or cgroup) has what the sum needs.
    ///
    /// # Errors
    /// The sum, and the flag of the largest line that has one.
    pub fn admit(&self, available_bytes: u64) -> Result<(), BudgetRefusal> {
        let needed_bytes = self.total_bytes();
        if needed_bytes <= available_bytes {
            return Ok(());
        }
        let largest = self.lines.iter().filter(|line| line.flag.is_some()).max_by_key(|line| line.bytes()).cloned();
        Err(BudgetRefusal { needed_bytes, available_bytes, largest: largest.map(Box::new) })
    }
}

impl fmt::Display for Budget {
    /// An aligned table, the sum last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name_columns = self.lines.iter().map(|line| line.name.chars().count()).max().unwrap_or(0).max("total".len());
        for line in &self.lines {
            let (count, each) = (line.count, line.bytes_each);
            writeln!(f, "  {:<name_columns$}  {count:>9} x {each:>9} B  {:>10}", line.name, Size(line.bytes()))?;
        }
        let blank = "";
        write!(f, "  {:<name_columns$}  {blank:>9}   {blank:>9}    {:>10}", "total", Size(self.total_bytes()))
    }
}

/// The host has less memory than the sum. Displays as three lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetRefusal {
    /// The sum.
    pub needed_bytes: u64,
    /// What there is.
    pub available_bytes: u64,
    /// The largest holder that a flag sizes.
    pub largest: Option<Box<BudgetLine>>,
}

impl BudgetRefusal {
    /// The first line, without its prefix.
    pub fn error(&self) -> String {
        format!("the memory budget of {} does not fit into this host", Size(self.needed_bytes))
    }

    /// The second line, without its prefix.
    pub fn cause(&self) -> String {
        let missing = Size(self.needed_bytes - self.available_bytes);
        format!("{} is available to this process, {missing} less than the sum of all holders", Size(self.available_bytes))
    }

    /// The third line, without its prefix.
    pub fn fix(&self) -> String {
        match &self.largest {
            Some(line) => {
                let flag = line.flag.unwrap_or("its flag");
                format!("lower {flag} ({}: {} of the sum), or give the process more memory", line.name, Size(line.bytes()))
            }
            None => "give the process more memory".to_owned(),
        }
    }
}

impl fmt::Display for BudgetRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}\ncause: {}\nfix: {}", self.error(), self.cause(), self.fix())
    }
}

impl std::error::Error for BudgetRefusal {}

/// Bytes for people: binary units, one decimal.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        let text = if self.0 < 1024 {
            format!("{} B", self.0)
        } else {
            let power = ((self.0.ilog2() / 10) as usize).min(UNITS.len());
            format!("{:.1} {}", self.0 as f64 / (1u64 << (10 * power)) as f64, UNITS[power - 1])
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_lines() -> Budget {
        let mut budget = Budget::new();
        budget.add_for_flag("small event slots", "--pool-small-slots", 163_840, 320);
        budget.add("staging buffers", 2, 2 << 20);
        budget.add_for_flag("parking memory", "--parking-bytes", 1, 4 << 20);
        budget.add("nothing", 0, 4096);
        budget
    }

    #[test]
    fn total_is_the_sum_of_the_lines_and_empty_holders_have_none() {
        let budget = three_lines();
        assert_eq!(budget.lines().len(), 3);
        assert_eq!(budget.total_bytes(), 163_840 * 320 + (8 << 20));
    }

    #[test]
    fn refusal_names_the_sum_and_the_flag_of_the_largest_holder() {
        let budget = three_lines();
        assert_eq!(budget.admit(budget.total_bytes()), Ok(()));
        let text = budget.admit(32 << 20).unwrap_err().to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], "error: the memory budget of 58.0 MiB does not fit into this host");
        assert!(lines[1].starts_with("cause: 32.0 MiB is available") && lines[1].contains("26.0 MiB less"));
        assert!(lines[2].starts_with("fix: lower --pool-small-slots (small event slots: 50.0 MiB"));
    }

    #[test]
    fn table_lines_are_equally_long() {
        let table = three_lines().to_string();
        assert!(table.lines().all(|line| line.len() == table.lines().next().unwrap().len()), "{table}");
    }

    #[test]
    fn a_sum_beyond_64_bits_is_refused_and_not_wrapped() {
        let mut budget = three_lines();
        budget.add("absurd", u64::MAX, 2);
        assert!(budget.admit(u64::MAX - 1).is_err());
    }
}
