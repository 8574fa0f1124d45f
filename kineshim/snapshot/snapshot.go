// Package snapshot is the stream format of a snapshot: every live key at one revision, with what is needed to put it back as it
// was, and the leases. It is pure: it reads from an io.Reader and writes to an io.Writer, and knows neither tables nor clocks.
//
// # Layout, integers big-endian
//
//	magic     16 bytes, like PNG's made to break when a transfer changes line ends
//	version   uint32, the format's
//	records   type uint8, length of the payload uint32, payload:
//	          'H' header, once and first
//	          'L' lease, as many as the header says, by ascending ID
//	          'K' key, as many as the header says, by ascending key
//	          'E' end, once and last: how many leases and keys there were
//	zeros     up to the next multiple of 512 bytes
//	SHA-256   of everything before it
//
// So the length is 32 above a multiple of 512: etcdctl snapshot save refuses a stream whose length is not.
//
// A snapshot holds no history: after it has been restored, nothing is known of revisions before its own.
package snapshot

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// FormatVersion is the version that this package writes, and the newest one that it reads.
const FormatVersion = 1

const (
	magic = "\x89kineshim\r\n\x1asnp\n"
	// sector is what the length before the checksum is a multiple of; etcdctl's hasChecksum knows it.
	sector = 512
	// maxPayload bounds a record: PostgreSQL could not hold a row a few times as long, and no request is a hundredth of it.
	maxPayload = 256 << 20
	// maxText bounds the texts of the header.
	maxText = 1024
	// preamble is the magic and the version.
	preamble = len(magic) + 4
	// recordHead is a record's type and length.
	recordHead = 5
)

const (
	typeHeader = 'H'
	typeLease  = 'L'
	typeRow    = 'K'
	typeEnd    = 'E'
)

// What is wrong with a stream. Every error of a Reader is one of these, or what the reader below it said.
var (
	// ErrForeign: it is not a snapshot of kineshim.
	ErrForeign = errors.New("not a snapshot of kineshim")
	// ErrNewer: a newer kineshim wrote it.
	ErrNewer = errors.New("the snapshot's format is newer than this program")
	// ErrTruncated: it ends before its end record and checksum.
	ErrTruncated = errors.New("the snapshot is cut short")
	// ErrDamaged: its content or its checksum is wrong.
	ErrDamaged = errors.New("the snapshot is damaged")
)

// Header says what a snapshot is of.
type Header struct {
	// ClusterID names the cluster, as shimctl status shows it; "" if it is not known.
	ClusterID string
	// Software is the version of the program that took it; "" if it is not known.
	Software string
	// Taken is when, by the clock of the node, to the millisecond.
	Taken time.Time
	// Revision is the one at which the keys were read; Compacted was the compacted revision then, -1 for none.
	Revision, Compacted int64
	// Keys and Leases are how many records of each follow.
	Keys, Leases int64
}

// Lease is a lease that lived when the snapshot was taken.
type Lease struct {
	ID int64
	// TTL is what was granted, in seconds; Remaining is what was left of it, to the millisecond.
	TTL       int64
	Remaining time.Duration
}

// Row is a live key. Value may be nil or empty, which are the same.
type Row struct {
	Key   string
	Value []byte
	// Create and Mod are the revisions of the key's creation and of its last change; Lease is 0 for none.
	Create, Mod, Version, Lease int64
}

// valid says what is wrong with a header.
func (h Header) valid() error {
	switch {
	case h.Revision < 1:
		return fmt.Errorf("revision %d", h.Revision)
	case h.Compacted < -1 || h.Compacted > h.Revision:
		return fmt.Errorf("compacted revision %d at revision %d", h.Compacted, h.Revision)
	case h.Keys < 0 || h.Leases < 0:
		return fmt.Errorf("%d keys and %d leases", h.Keys, h.Leases)
	case len(h.ClusterID) > maxText || len(h.Software) > maxText:
		return errors.New("a text in the header is too long")
	}
	return nil
}

// valid says what is wrong with a lease that follows the one with the ID before.
func (l Lease) valid(before int64, first bool) error {
	switch {
	case l.ID == 0 || !first && l.ID <= before:
		return fmt.Errorf("lease %d after lease %d", l.ID, before)
	case l.TTL < 1:
		return fmt.Errorf("lease %d has a time to live of %d s", l.ID, l.TTL)
	case l.Remaining < 0 || l.Remaining.Milliseconds()/1000 > l.TTL:
		return fmt.Errorf("lease %d has %v left of %d s", l.ID, l.Remaining, l.TTL)
	}
	return nil
}

// valid says what is wrong with a row of a snapshot at the revision, that follows the one with the key before.
func (r Row) valid(revision int64, before string) error {
	switch {
	case r.Key == "":
		return errors.New("an empty key")
	case r.Key <= before:
		return fmt.Errorf("key %q after key %q", r.Key, before)
	case r.Create < 1 || r.Create > r.Mod || r.Mod > revision:
		return fmt.Errorf("key %q was created at revision %d and changed at %d, in a snapshot at %d", r.Key, r.Create, r.Mod, revision)
	case r.Version < 1:
		return fmt.Errorf("key %q has version %d", r.Key, r.Version)
	}
	return nil
}

// padding is how many zeros follow n bytes.
func padding(n int64) int { return int((sector - n%sector) % sector) }

func (h Header) append(b []byte) []byte {
	for _, n := range []int64{h.Revision, h.Compacted, h.Keys, h.Leases, h.Taken.UnixMilli()} {
		b = appendInt(b, n)
	}
	for _, s := range []string{h.ClusterID, h.Software} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return b
}

func (l Lease) append(b []byte) []byte {
	for _, n := range []int64{l.ID, l.TTL, l.Remaining.Milliseconds()} {
		b = appendInt(b, n)
	}
	return b
}

// appendHead is all of a row's payload but the value, which comes last.
func (r Row) appendHead(b []byte) []byte {
	for _, n := range []int64{r.Create, r.Mod, r.Version, r.Lease} {
		b = appendInt(b, n)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Key)))
	return append(b, r.Key...)
}

// payload is how long the row's payload is.
func (r Row) payload() int { return 4*8 + 4 + len(r.Key) + len(r.Value) }

func appendInt(b []byte, n int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(n)) }

// fields takes a payload apart; bad is set when it is too short.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) take(n int) []byte {
	if n < 0 || n > len(f.b) {
		f.bad = true
		f.b = nil
		return nil
	}
	out := f.b[:n]
	f.b = f.b[n:]
	return out
}

func (f *fields) int() int64 {
	b := f.take(8)
	if b == nil {
		return 0
	}
	return int64(binary.BigEndian.Uint64(b))
}

func (f *fields) text() string {
	b := f.take(4)
	if b == nil {
		return ""
	}
	n := binary.BigEndian.Uint32(b)
	if n > maxPayload {
		f.bad = true
		return ""
	}
	return string(f.take(int(n)))
}

// over says whether the payload held exactly what was taken.
func (f *fields) over() bool { return !f.bad && len(f.b) == 0 }

func decodeHeader(b []byte) (Header, bool) {
	f := fields{b: b}
	h := Header{Revision: f.int(), Compacted: f.int(), Keys: f.int(), Leases: f.int()}
	h.Taken = time.UnixMilli(f.int())
	h.ClusterID, h.Software = f.text(), f.text()
	return h, f.over()
}

func decodeLease(b []byte) (Lease, bool) {
	f := fields{b: b}
	l := Lease{ID: f.int(), TTL: f.int()}
	ms := f.int()
	if ms < 0 || ms > math.MaxInt64/int64(time.Millisecond) {
		return l, false
	}
	l.Remaining = time.Duration(ms) * time.Millisecond
	return l, f.over()
}

// DecodeRow takes the payload of a row apart, as found at a Record's Offset. The row's value is part of b. ok is false if it is
// none.
func DecodeRow(b []byte) (r Row, ok bool) {
	f := fields{b: b}
	r = Row{Create: f.int(), Mod: f.int(), Version: f.int(), Lease: f.int()}
	r.Key = f.text()
	if f.bad {
		return Row{}, false
	}
	r.Value = f.b
	return r, true
}

// checksumBytes is how long the checksum at the end is.
const checksumBytes = sha256.Size
