//! What the sessions of all reactors share, and each reactor's part: the token, inboxes by number, and what the logs know of producers.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::EngineError;
use crate::config::{Auto, Config, OnOff};
use crate::ingest::{Inbox, SessionCounters, SessionOptions, SessionToken, SessionWiring, Sessions};
use crate::pool::Returns;
use crate::storage::appender::Durability;
use crate::storage::producers::ProducerTable;
use crate::storage::{DiskFolder, OpenLog};
use crate::sys::wake::Waker;
use crate::wire::session::{AckLevel, TOKEN_BYTES_MAX};

/// The sessions' numbers, without their token.
pub(super) fn options(config: &Config) -> SessionOptions {
    SessionOptions {
        seats: config.sessions,
        window: config.session_window,
        token: None,
        takes_anonymous: config.allow_anonymous == OnOff::On
            || config.tcp_listen.is_none_or(|address| address.ip().is_loopback()),
        level_max: match (config.storage, config.durability) {
            (OnOff::Off, _) => AckLevel::Accepted,
            (OnOff::On, Durability::None) => AckLevel::Written,
            (OnOff::On, Durability::Group | Durability::Always) => AckLevel::Durable,
        },
    }
}

/// What all reactors of an engine share.
pub(super) struct SharedSessions {
    options: SessionOptions,
    inboxes: Arc<[Inbox]>,
    returns: Returns,
}

impl SharedSessions {
    /// For so many reactors. Reads the token.
    ///
    /// # Errors
    /// A token file that can't be read, that others may read, or that holds no token.
    pub(super) fn new(config: &Config, reactors: usize) -> Result<Self, EngineError> {
        let token = match &config.session_token_file {
            Auto::Auto => None,
            Auto::Given(path) => Some(read_token(path).map_err(|error| EngineError::file("use the token file", path, error))?),
        };
        Ok(Self {
            options: SessionOptions { token, ..options(config) },
            inboxes: (0..reactors).map(|_| Inbox::default()).collect(),
            returns: Returns::new(reactors),
        })
    }

    /// Where outcomes of copies in the retry memory go.
    pub(super) fn returns(&self) -> Returns {
        self.returns.clone()
    }

    /// The sessions of one reactor, by its number among all; its runner is woken for what is handed over to it.
    ///
    /// # Errors
    /// Whatever mapping their buffers says.
    pub(super) fn of_reactor(
        &self,
        reactor: usize,
        waker: Waker,
        log: Option<&OpenLog<DiskFolder>>,
        producers: ProducerTable,
    ) -> io::Result<(Sessions, Arc<SessionCounters>)> {
        self.inboxes[reactor].set_waker(waker);
        let counters: Arc<SessionCounters> = Arc::default();
        let wiring = SessionWiring {
            reactor,
            inboxes: self.inboxes.clone(),
            returns: self.returns.clone(),
            producers,
            store: log.map(|log| log.status().clone()),
            counters: counters.clone(),
        };
        Ok((Sessions::new(self.options.clone(), wiring)?, counters))
    }
}

/// What the logs of all nodes know of producers, dealt out to the reactors that are their homes.
pub(super) fn of_the_past<'a>(
    config: &Config,
    logs: impl Iterator<Item = &'a OpenLog<DiskFolder>>,
    reactors: usize,
) -> Vec<ProducerTable> {
    let mut tables: Vec<_> = (0..reactors).map(|_| ProducerTable::new(config.producers)).collect();
    for (producer, window) in logs.flat_map(|log| log.producers().iter()) {
        tables[producer.home(reactors)].absorb(producer, window);
    }
    tables
}

/// The token of a file: its bytes, less a newline at their end.
fn read_token(path: &Path) -> io::Result<SessionToken> {
    let refused = |why: &str| io::Error::other(why.to_owned());
    let file = File::open(path)?;
    let mode = file.metadata()?.mode() & 0o7777;
    if mode != 0o600 && mode != 0o400 {
        return Err(refused(&format!("its mode is {mode:04o}, and a secret is its owner's alone: `chmod 0600` it")));
    }
    let mut bytes = Vec::new();
    // A longer one is refused below, and never read whole.
    file.take(TOKEN_BYTES_MAX as u64 + 2).read_to_end(&mut bytes)?;
    let token = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    SessionToken::new(token).ok_or_else(|| refused(&format!("a token has 1 to {TOKEN_BYTES_MAX} bytes and perhaps a newline")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(mode: u32, bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_token_file_is_its_owners_alone_and_holds_a_token() {
        assert!(read_token(file(0o600, b"open sesame\n").path()).unwrap().is(b"open sesame"));
        assert!(read_token(file(0o400, b"open sesame").path()).unwrap().is(b"open sesame"));
        for mode in [0o640, 0o604, 0o660, 0o700] {
            assert!(read_token(file(mode, b"open sesame").path()).unwrap_err().to_string().contains("chmod 0600"), "{mode:o}");
        }
        for bytes in [&b""[..], b"\n", &[b'x'; TOKEN_BYTES_MAX + 1]] {
            assert!(read_token(file(0o600, bytes).path()).is_err());
        }
        let longest = [b'x'; TOKEN_BYTES_MAX];
        assert!(read_token(file(0o600, &[&longest[..], b"\n"].concat()).path()).unwrap().is(&longest));
    }
}
