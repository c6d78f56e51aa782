//! What `bench ceiling` and `bench run` are told alike.

use std::path::PathBuf;

/// Defines a command with the flags that all measuring commands share, behind its own: argh has no way to put one struct of flags into another.
macro_rules! measuring_command {
    ($(#[$of:meta])* $vis:vis struct $name:ident { $($own:tt)* }) => {
        $(#[$of])*
        $vis struct $name {
            $($own)*
            /// how often each point is measured; the median counts (default: 5)
            #[argh(option, default = "5")]
            repeat: usize,
            /// where results are written (default: bench-results)
            #[argh(option, default = "std::path::PathBuf::from(\"bench-results\")")]
            out: std::path::PathBuf,
            /// a folder on the disk to be measured, with 5 GiB free (default: the one of --out)
            #[argh(option)]
            data_dir: Option<std::path::PathBuf>,
            /// core of the engine (default: 0)
            #[argh(option, default = "0")]
            engine_core: u32,
            /// core of the sender (default: 1, where there is one)
            #[argh(option, default = "1")]
            sender_core: u32,
            /// print the result as JSON
            #[argh(switch)]
            json: bool,
        }

        impl $name {
            fn common(&self) -> $crate::commands::bench::flags::Common {
                $crate::commands::bench::flags::Common {
                    repeat: self.repeat,
                    out: self.out.clone(),
                    data_dir: self.data_dir.clone().unwrap_or_else(|| self.out.clone()),
                    engine_core: self.engine_core,
                    sender_core: self.sender_core,
                    json: self.json,
                }
            }
        }
    };
}
pub(super) use measuring_command;

/// The values of the shared flags.
#[derive(Clone, Debug)]
pub(super) struct Common {
    /// Repeats of each point.
    pub(super) repeat: usize,
    /// Where results go.
    pub(super) out: PathBuf,
    /// Where data goes meanwhile.
    pub(super) data_dir: PathBuf,
    /// The engine's core.
    pub(super) engine_core: u32,
    /// The sender's core, if there is one.
    pub(super) sender_core: u32,
    /// Whether the result is printed as JSON.
    pub(super) json: bool,
}
