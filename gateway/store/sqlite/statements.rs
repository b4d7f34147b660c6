//! The writer's prepared statements. Each is prepared once and lies ready under its text's address: a lead takes a dozen
//! of them, and to look each up by its text, as a general cache has to, costs as much as to run the small ones.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};

use rusqlite::{Connection, Statement};

/// Statements kept at most; days come and go, each with statements of its own.
const KEPT: usize = 256;

/// Where a text lies, how long it is, and of which day's tables it speaks (0: of none).
type Key = (usize, usize, u32);

/// What is prepared on one connection.
pub(super) struct Statements<'c> {
    conn: &'c Connection,
    idle: RefCell<HashMap<Key, Statement<'c>>>,
}

/// A statement on loan; it goes back when it is dropped.
pub(super) struct Lent<'s, 'c> {
    key: Key,
    // Taken by `drop` alone.
    statement: Option<Statement<'c>>,
    home: &'s Statements<'c>,
}

impl<'c> Statements<'c> {
    pub(super) fn new(conn: &'c Connection) -> Self {
        Self { conn, idle: RefCell::default() }
    }

    /// The statement of this text.
    pub(super) fn get(&self, sql: &'static str) -> rusqlite::Result<Lent<'_, 'c>> {
        self.of((sql.as_ptr().addr(), sql.len(), 0), || self.conn.prepare(sql))
    }

    /// The statement of this text about the tables of `day`, with the day for `{day}`.
    pub(super) fn of_day(&self, sql: &'static str, day: u32) -> rusqlite::Result<Lent<'_, 'c>> {
        let key = (sql.as_ptr().addr(), sql.len(), day);
        self.of(key, || self.conn.prepare(&sql.replace("{day}", &day.to_string())))
    }

    /// Forgets all that is not on loan.
    pub(super) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }

    fn of(
        &self,
        key: Key,
        prepare: impl FnOnce() -> rusqlite::Result<Statement<'c>>,
    ) -> rusqlite::Result<Lent<'_, 'c>> {
        let known = self.idle.borrow_mut().remove(&key);
        let statement = match known {
            Some(statement) => statement,
            None => prepare()?,
        };
        Ok(Lent { key, statement: Some(statement), home: self })
    }
}

impl<'c> Deref for Lent<'_, 'c> {
    type Target = Statement<'c>;

    #[expect(clippy::expect_used, reason = "it is taken when it is dropped, and not before")]
    fn deref(&self) -> &Statement<'c> {
        self.statement.as_ref().expect("not dropped")
    }
}

impl<'c> DerefMut for Lent<'_, 'c> {
    #[expect(clippy::expect_used, reason = "it is taken when it is dropped, and not before")]
    fn deref_mut(&mut self) -> &mut Statement<'c> {
        self.statement.as_mut().expect("not dropped")
    }
}

impl Drop for Lent<'_, '_> {
    fn drop(&mut self) {
        let mut idle = self.home.idle.borrow_mut();
        if idle.len() >= KEPT {
            idle.clear();
        }
        if let Some(statement) = self.statement.take() {
            idle.insert(self.key, statement);
        }
    }
}
