package kinetable

import (
	"errors"
	"fmt"
	"time"
)

// ErrMissing is what a *MissingError is: a row that was asked for is not in the table.
var ErrMissing = errors.New("the row is not in the table")

// MissingError names the first row that Values did not find.
type MissingError struct{ ID int64 }

// Error says which row.
func (e *MissingError) Error() string { return fmt.Sprintf("row %d: %v", e.ID, ErrMissing) }

// Unwrap returns ErrMissing.
func (e *MissingError) Unwrap() error { return ErrMissing }

// Row is one change that is written: a row of kine's table, in a client's terms. Key and values are the client's; what
// kine stores otherwise (Kubernetes' compact_rev_key, keys that a name cannot hold) is translated here.
type Row struct {
	ID       int64 // unique; ascending within a batch and over all batches
	Revision int64 // <= ID
	Key      string
	// Created: the key was not there before. Deleted: a tombstone. Neither: an update.
	Created, Deleted bool
	// CreateRevision and CreateID are those of the key's create row. Not stored for rows that are created or deleted,
	// as kine does it.
	CreateRevision, CreateID int64
	// PrevID is the row that this one replaces, or for a created row the key's last tombstone; 0: none.
	PrevID int64
	// TTL is the lease's, in seconds, for kine; clipped to what its column takes. Lease is the lease's ID; 0: none.
	TTL, Version, Lease int64
	// Value is not stored for a deleted row, OldValue not for a created one. Empty is the same as nil.
	Value, OldValue []byte
	// FetchOld: OldValue is not known; it is the value of row PrevID, which is earlier in this batch or was written by
	// an earlier one.
	FetchOld bool
	// Attempt is the ID of the client's attempt at the write, by which FindAttempt finds it; 0: none. Replace does not store it.
	Attempt int64
}

// LoadedRow is a row as it is in the table, without its values.
type LoadedRow struct {
	ID, Revision     int64
	Key              string
	Created, Deleted bool
	// CreateRevision and CreateID, of the key's create row, are 0 for rows that are created or deleted, and where they
	// are not known.
	CreateRevision, CreateID int64
	PrevID                   int64
	// Version is 0 where it is not known, which is so in most rows that kine wrote; and in tombstones.
	Version int64
	// Lease is 0 in rows that kine wrote with a TTL: Adopt gives them one.
	Lease int64
	TTL   int64 // seconds
}

// HistoryRow is a row with its values. An empty value is nil. OldValue is nil in rows that are created.
type HistoryRow struct {
	LoadedRow
	Value, OldValue []byte
}

// LeaseRow is a lease as it is stored.
type LeaseRow struct {
	ID, TTL int64         // TTL in seconds
	Expires time.Duration // on the lease clock; stored in milliseconds, rounded up
}

// Batch is what one transaction writes.
type Batch struct {
	Rows []Row
	// Compact is the new compacted revision as plain kine will see it: a row ID, of that revision's last row or, if it has none,
	// anything before the next revision's first. 0: unchanged. CompactRevision is the revision itself.
	Compact, CompactRevision int64
	// Leases are stored whether they were there or not; of two with one ID the last counts. Revoked are removed, before
	// Leases are stored: an ID that is in both stays.
	Leases  []LeaseRow
	Revoked []int64
	// LeaseClock is stored with Leases and Revoked, in milliseconds, rounded down. The stored clock never goes back.
	LeaseClock time.Duration
	// Access takes the place of what was stored of access control; nil: it stays. It is not looked into here.
	Access []byte
}

// Meta is what Load finds besides the rows, and what Replace is told of them.
type Meta struct {
	// LastID and Revision are those of the newest change, also if its row has been compacted away: IDs and revisions go
	// on from here.
	LastID, Revision int64
	Compacted        int64 // the compacted revision
	Untouched        bool  // nothing has ever been compacted; set by Load only
	LeaseClock       time.Duration
	Leases           []LeaseRow // in no order
	Access           []byte     // of the last Batch that had one, nil if none had; Replace leaves it as it is
}

// VersionFix is a version for an update of kine's.
type VersionFix struct{ ID, Version int64 }

// LeaseFix is a lease for a row of kine's that has a TTL. ID is the row's.
type LeaseFix struct{ ID, Lease int64 }
