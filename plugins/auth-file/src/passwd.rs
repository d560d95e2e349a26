//! The file of users: one `user:$argon2id$v=19$m=…,t=…,p=…$salt$hash` per line; a line that begins
//! with `#` is a comment. Parsed as a whole at load and after each change; a shard only looks up a
//! name.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use argon2::password_hash::phc::{Output, PasswordHash, Salt};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Block, Params, Version};
use grapnel_watched_file::LineError;

/// The maximum cost of an entry.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// Maximum memory, KiB.
    pub memory_kib_max: u32,
    /// Maximum number of passes.
    pub passes_max: u32,
}

/// A password's hash and its parameters.
#[derive(Clone, Debug)]
pub struct Entry {
    params: Params,
    salt: Salt,
    hash: Output,
}

impl Entry {
    /// Reads a PHC string.
    ///
    /// # Errors
    /// The error and what is expected instead.
    fn parse(text: &str, costs: Costs) -> Result<Entry, String> {
        let entry = PasswordHash::new(text).map_err(|error| format!("not an argon2id entry: {error}"))?;
        if entry.algorithm != ARGON2ID_IDENT {
            return Err(format!(
                "algorithm {} is not argon2id; make the entry with grapnel-ctl passwd",
                entry.algorithm
            ));
        }
        if entry.version != Some(Version::V0x13.into()) {
            return Err("version must be given, and be 19".into());
        }
        let params = Params::try_from(&entry).map_err(|error| format!("argon2 parameters: {error}"))?;
        if params.m_cost() > costs.memory_kib_max {
            let (memory_kib, max) = (params.m_cost(), costs.memory_kib_max);
            return Err(format!("m={memory_kib} KiB is more than memory_kib_max = {max}"));
        }
        if params.t_cost() > costs.passes_max {
            return Err(format!("t={} is more than passes_max = {}", params.t_cost(), costs.passes_max));
        }
        match (entry.salt, entry.hash) {
            (Some(salt), Some(hash)) => Ok(Entry { params, salt, hash }),
            _ => Err("salt or hash is missing".into()),
        }
    }

    /// Whether the password is correct. A wrong one takes the same time. Uses `memory`, which grows
    /// as required.
    pub fn verify(&self, password: &[u8], memory: &mut Vec<Block>) -> bool {
        let blocks = self.params.block_count();
        if memory.len() < blocks {
            memory.resize(blocks, Block::new());
        }
        let mut computed = [0; Output::MAX_LENGTH];
        let computed = &mut computed[..self.hash.len()];
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params.clone());
        let done =
            argon2.hash_password_into_with_memory(password, &self.salt, computed, memory.as_mut_slice());
        // The comparison of two `Output` takes the same time wherever they differ.
        done.is_ok() && Output::new(computed).is_ok_and(|computed| computed == self.hash)
    }
}

/// All users of the file.
#[derive(Debug)]
pub struct Table {
    users: HashMap<Box<str>, Arc<Entry>>,
    /// The entries again, in the order of the file, from which [`Table::decoy`] chooses one.
    entries: Vec<Arc<Entry>>,
    /// Randomly keyed, so that the decoy of a name cannot be predicted.
    chooser: RandomState,
}

impl Table {
    /// Parses a file's text. `chooser` stays the same during the life of the plugin.
    ///
    /// # Errors
    /// The first invalid line.
    pub fn parse(text: &str, costs: Costs, chooser: RandomState) -> Result<Table, LineError> {
        let mut table = Table { users: HashMap::new(), entries: Vec::new(), chooser };
        for (index, content) in text.lines().enumerate() {
            let content = content.trim_end();
            if !content.is_empty() && !content.starts_with('#') {
                table.add(content, costs).map_err(|reason| LineError { line: index + 1, reason })?;
            }
        }
        Ok(table)
    }

    fn add(&mut self, line: &str, costs: Costs) -> Result<(), String> {
        let (user, entry) = line.split_once(':').ok_or("no ':' between user name and entry")?;
        if user.is_empty() {
            return Err("no user name before ':'".into());
        }
        let entry =
            Arc::new(Entry::parse(entry, costs).map_err(|reason| format!("user {user:?}: {reason}"))?);
        self.entries.push(Arc::clone(&entry));
        match self.users.insert(user.into(), entry) {
            Some(_) => Err(format!("user {user:?} is in the file twice")),
            None => Ok(()),
        }
    }

    /// The entry of a user.
    pub fn find(&self, user: &str) -> Option<&Arc<Entry>> {
        self.users.get(user)
    }

    /// The entry to compute for a name that is not in the file, so that the response time does not
    /// reveal this: an existing entry, always the same one for a name. `None` if the file has no
    /// users.
    pub fn decoy(&self, user: &str) -> Option<&Arc<Entry>> {
        let count = self.entries.len() as u64;
        let index = self.chooser.hash_one(user).checked_rem(count)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// Number of users.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use argon2::PasswordHasher;

    use super::*;

    const COSTS: Costs = Costs { memory_kib_max: 65_536, passes_max: 10 };

    /// An entry with minimal cost.
    pub(crate) fn cheap(password: &str) -> String {
        let params = Params::new(8, 1, 1, None).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password_with_salt(password.as_bytes(), b"salt of tests").unwrap().to_string()
    }

    pub(crate) fn table(text: &str) -> Result<Table, LineError> {
        Table::parse(text, COSTS, RandomState::new())
    }

    /// From the tests of the reference implementation (phc-winner-argon2, src/test.c).
    const REFERENCE: &str =
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";

    #[test]
    fn an_entry_of_the_reference_implementation_is_understood() {
        let table = table(&format!("# users\n\nann:{REFERENCE}\r\n")).unwrap();
        let ann = table.find("ann").unwrap();
        let mut memory = Vec::new();
        assert!(ann.verify(b"password", &mut memory));
        assert!(!ann.verify(b"Password", &mut memory));
        assert!(!ann.verify(b"", &mut memory));
        assert_eq!(memory.len(), 65_536);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn one_buffer_is_used_for_cheap_and_costly_entries_in_any_order() {
        let table = table(&format!("ann:{REFERENCE}\nbob:{}", cheap("b"))).unwrap();
        let mut memory = Vec::new();
        assert!(table.find("bob").unwrap().verify(b"b", &mut memory));
        assert!(table.find("ann").unwrap().verify(b"password", &mut memory));
        assert!(table.find("bob").unwrap().verify(b"b", &mut memory));
        assert!(!table.find("bob").unwrap().verify(b"a", &mut memory));
    }

    #[test]
    fn an_invalid_line_is_named_in_the_error() {
        let error_of = |line: &str| {
            let LineError { line, reason } = table(&format!("# first\n{line}\n")).unwrap_err();
            assert_eq!(line, 2);
            reason
        };
        assert_eq!(error_of("ann"), "no ':' between user name and entry");
        assert_eq!(error_of(&format!(":{REFERENCE}")), "no user name before ':'");
        assert!(error_of("ann:secret").starts_with("user \"ann\": not an argon2id entry: "));
        let changed = |from, to| format!("ann:{}", REFERENCE.replace(from, to));
        assert!(error_of(&changed("argon2id", "argon2i")).contains("algorithm argon2i is not argon2id"));
        assert!(error_of(&changed("v=19", "v=16")).contains("version must be given, and be 19"));
        assert!(error_of(&changed("$v=19", "")).contains("version must be given, and be 19"));
        assert!(
            error_of(&changed("m=65536", "m=65537"))
                .contains("m=65537 KiB is more than memory_kib_max = 65536")
        );
        assert!(error_of(&changed("t=2", "t=11")).contains("t=11 is more than passes_max = 10"));
        assert!(error_of(&changed("m=65536", "m=7")).contains("argon2 parameters"));
        let no_hash = REFERENCE.rsplit_once('$').unwrap().0;
        assert!(error_of(&format!("ann:{no_hash}")).contains("salt or hash is missing"));
        let LineError { line, reason } =
            table(&format!("a:{REFERENCE}\nb:{REFERENCE}\na:{REFERENCE}")).unwrap_err();
        assert_eq!((line, reason.as_str()), (3, "user \"a\" is in the file twice"));
    }

    #[test]
    fn an_unknown_user_has_its_own_dummy_hash() {
        let users: Vec<String> = (0..50).map(|n| format!("user{n}:{}\n", cheap("x"))).collect();
        let table = table(&users.concat()).unwrap();
        let decoy = |name: &str| Arc::as_ptr(table.decoy(name).unwrap());
        assert_eq!(decoy("nobody"), decoy("nobody"));
        let chosen: std::collections::HashSet<_> = (0..200).map(|n| decoy(&format!("stranger{n}"))).collect();
        assert!(chosen.len() > 25, "{} of 50", chosen.len());
        assert!(super::tests::table("").unwrap().decoy("nobody").is_none());
    }
}
