package kinetable

import (
	"encoding/binary"

	"github.com/jackc/pgx/v5/pgtype"
)

// wire builds messages of PostgreSQL's protocol (manual, "Message Formats") in one buffer that is used again and again.
// Values are in binary form; an array is dimensions, whether it has nulls, element type, length, lower bound, elements.
type wire struct{ buf []byte }

func (w *wire) int16(v int)   { w.buf = binary.BigEndian.AppendUint16(w.buf, uint16(v)) }
func (w *wire) int32(v int)   { w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(v)) }
func (w *wire) int64(v int64) { w.buf = binary.BigEndian.AppendUint64(w.buf, uint64(v)) }

// open leaves room for a length; close fills it in. What a length counts differs: itself in a message, not in a value.
func (w *wire) open() (at int) {
	w.buf = append(w.buf, 0, 0, 0, 0)
	return len(w.buf)
}

func (w *wire) close(at, itself int) {
	binary.BigEndian.PutUint32(w.buf[at-4:], uint32(len(w.buf)-at+itself))
}

// bind begins a Bind of a prepared statement to the unnamed portal. n values must follow, then execute with what bind
// returned.
func (w *wire) bind(statement string, n int) (at int) {
	w.buf = append(w.buf, 'B')
	at = w.open()
	w.buf = append(w.buf, 0)
	w.buf = append(append(w.buf, statement...), 0)
	w.int16(1) // one format for all values
	w.int16(pgtype.BinaryFormatCode)
	w.int16(n)
	return at
}

// execute ends the Bind and executes the portal.
func (w *wire) execute(at int) {
	w.int16(0) // results in their default format
	w.close(at, 4)
	w.buf = append(w.buf, 'E', 0, 0, 0, 9, 0, 0, 0, 0, 0)
}

func (w *wire) sync()      { w.buf = append(w.buf, 'S', 0, 0, 0, 4) }
func (w *wire) terminate() { w.buf = append(w.buf, 'X', 0, 0, 0, 4) }

func (w *wire) null() { w.int32(-1) }

func (w *wire) bigint(v int64) {
	w.int32(8)
	w.int64(v)
}

func (w *wire) integer(v int64) {
	w.int32(4)
	w.int32(int(v))
}

// sized writes an integer into a column of 4 or 8 bytes.
func (w *wire) sized(v int64, bytes int) {
	if bytes == 4 {
		w.integer(v)
	} else {
		w.bigint(v)
	}
}

func (w *wire) boolean(v bool) {
	w.int32(1)
	if v {
		w.buf = append(w.buf, 1)
	} else {
		w.buf = append(w.buf, 0)
	}
}

func (w *wire) text(v string) {
	w.int32(len(v))
	w.buf = append(w.buf, v...)
}

func (w *wire) bytes(v []byte) {
	w.int32(len(v))
	w.buf = append(w.buf, v...)
}

// nonZero writes 0 as NULL.
func (w *wire) nonZero(v int64) {
	if v == 0 {
		w.null()
	} else {
		w.bigint(v)
	}
}

// nonEmpty writes no bytes as NULL, as kine does it.
func (w *wire) nonEmpty(v []byte) {
	if len(v) == 0 {
		w.null()
	} else {
		w.bytes(v)
	}
}

// array begins an array value of n > 0 elements, which must follow, and then close with what array returned.
func (w *wire) array(oid uint32, n int) (at int) {
	at = w.open()
	w.int32(1)
	w.int32(1) // there may be nulls
	w.int32(int(oid))
	w.int32(n)
	w.int32(1)
	return at
}

func (w *wire) endArray(at int) { w.close(at, 0) }

// bigints is a whole array value.
func (w *wire) bigints(v []int64) {
	at := w.array(pgtype.Int8OID, len(v))
	for _, e := range v {
		w.bigint(e)
	}
	w.endArray(at)
}

// bigintArray is an array as a parameter's value, whose length the caller adds.
func bigintArray(v []int64) []byte {
	if len(v) == 0 {
		return []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, pgtype.Int8OID} // no dimensions
	}
	w := wire{buf: make([]byte, 0, 24+12*len(v))}
	w.bigints(v)
	return w.buf[4:]
}
