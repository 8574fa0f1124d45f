package postgres

import "errors"

// What callers branch on. Each comes wrapped in the operation's name and the facts.
var (
	// ErrNotRunning: the verb needs a running postmaster, and this Server has none.
	ErrNotRunning = errors.New("postgresql is not running")
	// ErrRunning: the verb needs a stopped PostgreSQL.
	ErrRunning = errors.New("postgresql is running")
	// ErrUnknownOutcome: the effect may have happened, may not have happened, or may yet happen.
	ErrUnknownOutcome = errors.New("outcome unknown")
	// ErrDataIncomplete: the data directory is missing, half made, half rewound, or not the one that was made here. Clone repairs it.
	ErrDataIncomplete = errors.New("the data directory is not whole")
	// ErrInUse: another process, or another Server of this one, has the data directory.
	ErrInUse = errors.New("another kineshim uses this directory")
	// ErrExists: InitDB found a data directory.
	ErrExists = errors.New("the data directory exists already")
	// ErrDiverged: this data directory holds WAL that is not part of the peer's history. Rewind or Clone repairs it.
	ErrDiverged = errors.New("the local WAL is not part of the peer's history")
	// ErrWALRemoved: the peer no longer has the WAL that comes next here. Clone repairs it.
	ErrWALRemoved = errors.New("the peer has removed the WAL that is needed next")
	// ErrNoRoom: the disk has no room for a copy beside the old data directory.
	ErrNoRoom = errors.New("there is no room for the copy")
	// ErrForeign: the peer's database was made by another initdb.
	ErrForeign = errors.New("the peer's system identifier is another one")
	// ErrNotStandby: the verb needs a PostgreSQL in recovery.
	ErrNotStandby = errors.New("postgresql is not a standby")
	// ErrNotPrimary: the verb needs a PostgreSQL that is not in recovery.
	ErrNotPrimary = errors.New("postgresql is not a primary")
	// ErrNotFrozen: Promote found a walreceiver, or a standby that still has an upstream.
	ErrNotFrozen = errors.New("the standby still receives")
	// ErrLaterEpoch: the database has been served under a later epoch, or under this one by another node.
	ErrLaterEpoch = errors.New("the database was served under a later epoch, or under this one by the other node: this node's cluster record is older than its data")
	// ErrSoloConnected: kineshim itself acknowledges commits, so nothing can be proved about the standby.
	ErrSoloConnected = errors.New("commits are still acknowledged by kineshim itself")
	// ErrUnsafeSettings: a session would not wait for the standby.
	ErrUnsafeSettings = errors.New("settings do not gate commits")
)
