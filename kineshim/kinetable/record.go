package kinetable

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// record is a row as it is stored: kine's columns as kine writes them, then ours, where 0 is NULL.
type record struct {
	id             int64
	name           string
	created        int64
	deleted        int64
	createRevision int64
	prevRevision   int64
	lease          int64
	value          []byte // empty: NULL
	oldValue       []byte // empty: NULL
	fetch          bool   // oldValue is the value of row prevRevision

	ksRevision, ksVersion, ksCreate, ksLease int64
	key                                      string // ks_key, if escaped
	escaped                                  bool
	attempt                                  int64 // which encode leaves out
}

// stored is rows[i] as it is stored. The rows before it are those of the same batch.
func stored(n naming, rows []Row, i int) record {
	row := &rows[i]
	r := record{id: row.ID, prevRevision: row.PrevID, key: row.Key, attempt: row.Attempt}
	r.name, r.escaped = n.name(row.Key)
	if row.Revision != row.ID {
		r.ksRevision = row.Revision
	}
	if row.Deleted {
		r.deleted = 1
	} else {
		r.lease, r.ksLease = clip(row.TTL), row.Lease
		r.value = row.Value
		if row.Key == compactKey {
			r.value = encodeVersion(row.Version, row.Value)
		}
	}
	switch {
	case row.Created:
		r.created = 1
		if row.Version != 1 {
			r.ksVersion = row.Version
		}
		return r
	case !row.Deleted:
		r.createRevision, r.ksVersion = row.CreateID, row.Version
		if row.CreateRevision != row.CreateID {
			r.ksCreate = row.CreateRevision
		}
	}
	r.oldValue, r.fetch = row.OldValue, row.FetchOld
	if row.FetchOld || row.Key == compactKey { // of which the value is not stored as the client knows it
		r.oldValue, r.fetch = storedValue(rows[:i], row.PrevID)
	}
	return r
}

// storedValue is the value of row id as it is stored, if it is one of these rows; if not, it must be fetched.
func storedValue(rows []Row, id int64) (value []byte, fetch bool) {
	i, found := slices.BinarySearchFunc(rows, id, func(r Row, id int64) int { return cmp.Compare(r.ID, id) })
	switch {
	case !found:
		return nil, id != 0
	case rows[i].Key == compactKey && !rows[i].Deleted:
		return encodeVersion(rows[i].Version, rows[i].Value), false
	}
	return rows[i].Value, false
}

// clip is what kine's int4 column takes.
func clip(ttl int64) int64 { return min(max(ttl, 0), math.MaxInt32) }

// encode writes the columns in the order of kineColumns and ourColumns, into columns for IDs and for revisions of 4 or
// 8 bytes.
func (r *record) encode(w *wire, idBytes, revisionBytes int) {
	w.sized(r.id, idBytes)
	w.text(r.name)
	w.integer(r.created)
	w.integer(r.deleted)
	w.sized(r.createRevision, revisionBytes)
	w.sized(r.prevRevision, revisionBytes)
	w.integer(r.lease)
	w.nonEmpty(r.value)
	w.nonEmpty(r.oldValue)
	w.nonZero(r.ksRevision)
	w.nonZero(r.ksVersion)
	w.nonZero(r.ksCreate)
	w.nonZero(r.ksLease)
	r.encodeKey(w)
}

func (r *record) encodeKey(w *wire) {
	if r.escaped {
		w.text(r.key)
	} else {
		w.null()
	}
}

// quote makes an SQL literal; standard_conforming_strings is on in all versions of today.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
