package snapshot

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
)

// Writer writes one snapshot: NewWriter, each Lease, each Row, Close. After an error it must not be used any more, and what it
// has written is no snapshot. It is for one goroutine, and does not buffer.
type Writer struct {
	to     io.Writer
	sum    hash.Hash
	header Header

	written      int64
	leases, keys int64
	lastLease    int64
	lastKey      string
	buf          []byte // reused
}

// NewWriter writes the beginning. The header says how many leases and keys must follow.
func NewWriter(to io.Writer, h Header) (*Writer, error) {
	if err := h.valid(); err != nil {
		return nil, fmt.Errorf("snapshot header: %w", err)
	}
	w := &Writer{to: to, sum: sha256.New(), header: h}
	if err := w.write(binary.BigEndian.AppendUint32([]byte(magic), FormatVersion)); err != nil {
		return nil, err
	}
	if err := w.record(typeHeader, h.append(nil)); err != nil {
		return nil, err
	}
	return w, nil
}

// Lease writes a lease, by ascending ID, before the rows.
func (w *Writer) Lease(l Lease) error {
	if err := l.valid(w.lastLease, w.leases == 0); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if w.leases == w.header.Leases || w.keys > 0 {
		return fmt.Errorf("snapshot: lease %d is one too many, or comes after a key", l.ID)
	}
	w.leases++
	w.lastLease = l.ID
	return w.record(typeLease, l.append(w.buf[:0]))
}

// Row writes a key, by ascending key. The value is not kept.
func (w *Writer) Row(r Row) error {
	if err := r.valid(w.header.Revision, w.lastKey); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if w.keys == w.header.Keys || w.leases != w.header.Leases {
		return fmt.Errorf("snapshot: key %q is one too many, or comes before the last lease", r.Key)
	}
	if r.payload() > maxPayload {
		return fmt.Errorf("snapshot: key %q has %d bytes, more than %d", r.Key, r.payload(), maxPayload)
	}
	w.keys++
	w.lastKey = r.Key
	w.buf = append(w.buf[:0], typeRow)
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(r.payload()))
	w.buf = r.appendHead(w.buf)
	if err := w.write(w.buf); err != nil {
		return err
	}
	return w.write(r.Value)
}

// Close writes the end and the checksum. It refuses to end a snapshot that lacks something.
func (w *Writer) Close() error {
	if w.leases != w.header.Leases || w.keys != w.header.Keys {
		return fmt.Errorf("snapshot: %d leases and %d keys were written, %d and %d were announced", w.leases, w.keys, w.header.Leases, w.header.Keys)
	}
	if err := w.record(typeEnd, appendInt(appendInt(nil, w.leases), w.keys)); err != nil {
		return err
	}
	if err := w.write(make([]byte, padding(w.written))); err != nil {
		return err
	}
	return w.write(w.sum.Sum(nil))
}

// Written is how many bytes have been written.
func (w *Writer) Written() int64 { return w.written }

func (w *Writer) record(kind byte, payload []byte) error {
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(payload)))
	if err := w.write(head); err != nil {
		return err
	}
	return w.write(payload)
}

func (w *Writer) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	w.sum.Write(b)
	n, err := w.to.Write(b)
	w.written += int64(n)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}
