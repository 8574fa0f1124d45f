package snapshot

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// Record is a lease or a row: the other one is nil. It belongs to the caller.
type Record struct {
	Lease *Lease
	Row   *Row
	// Offset and Length say where in the stream its payload stands, for DecodeRow.
	Offset int64
	Length int
}

// Reader reads one snapshot from its beginning to its end. What it has returned is to be believed only when Next has returned
// io.EOF: the checksum stands at the end. It is for one goroutine.
type Reader struct {
	from   *bufio.Reader
	sum    hash.Hash
	n      int64 // bytes read
	header Header

	leases, keys int64
	lastLease    int64
	lastKey      string
	ended        bool
}

// NewReader reads the beginning. It reads ahead.
func NewReader(from io.Reader) (*Reader, error) {
	r := &Reader{from: bufio.NewReaderSize(from, 64<<10), sum: sha256.New()}
	if err := r.recognise(); err != nil {
		return nil, err
	}
	kind, payload, err := r.record()
	if err != nil {
		return nil, err
	}
	h, ok := decodeHeader(payload)
	if kind != typeHeader || !ok {
		return nil, r.damaged(errors.New("it does not begin with a header"))
	}
	if err := h.valid(); err != nil {
		return nil, r.damaged(err)
	}
	r.header = h
	return r, nil
}

// Header says what the snapshot is of.
func (r *Reader) Header() Header { return r.header }

// Read is how many bytes have been read of the snapshot.
func (r *Reader) Read() int64 { return r.n }

// Next returns the next lease or row; io.EOF when the whole snapshot has been read and is as it was written.
func (r *Reader) Next() (Record, error) {
	if r.ended {
		return Record{}, io.EOF
	}
	kind, payload, err := r.record()
	if err != nil {
		return Record{}, err
	}
	rec := Record{Offset: r.n - int64(len(payload)), Length: len(payload)}
	switch kind {
	case typeLease:
		l, ok := decodeLease(payload)
		rec.Lease = &l
		err = r.lease(l, ok)
	case typeRow:
		row, ok := DecodeRow(payload)
		rec.Row = &row
		err = r.row(row, ok)
	case typeEnd:
		if err = r.end(payload); err == nil {
			r.ended = true
			return Record{}, io.EOF
		}
		return Record{}, err
	default:
		err = fmt.Errorf("a record of type %#x", kind)
	}
	if err != nil {
		return Record{}, r.damaged(err)
	}
	return rec, nil
}

func (r *Reader) lease(l Lease, ok bool) error {
	if !ok || r.keys > 0 {
		return errors.New("a lease that is none, or comes after a key")
	}
	if err := l.valid(r.lastLease, r.leases == 0); err != nil {
		return err
	}
	r.leases++
	r.lastLease = l.ID
	return nil
}

func (r *Reader) row(row Row, ok bool) error {
	if !ok {
		return errors.New("a key that is none")
	}
	if err := row.valid(r.header.Revision, r.lastKey); err != nil {
		return err
	}
	r.keys++
	r.lastKey = row.Key
	return nil
}

// end checks the counts, the padding and the checksum, and that nothing follows.
func (r *Reader) end(payload []byte) error {
	f := fields{b: payload}
	leases, keys := f.int(), f.int()
	if !f.over() || leases != r.leases || keys != r.keys || leases != r.header.Leases || keys != r.header.Keys {
		return r.damaged(fmt.Errorf("it holds %d leases and %d keys, its header says %d and %d", r.leases, r.keys, r.header.Leases, r.header.Keys))
	}
	zeros := make([]byte, padding(r.n))
	if err := r.full(zeros); err != nil {
		return err
	}
	if len(bytes.TrimLeft(zeros, "\x00")) > 0 {
		return r.damaged(errors.New("there is something between its end and its checksum"))
	}
	want := r.sum.Sum(nil)
	got := make([]byte, checksumBytes)
	if err := r.full(got); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return r.damaged(errors.New("its checksum is wrong"))
	}
	switch _, err := r.from.ReadByte(); {
	case err == nil:
		return r.damaged(errors.New("something follows after its checksum"))
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

// record reads one record's type and payload. A length that is a lie costs no more memory than there are bytes.
func (r *Reader) record() (byte, []byte, error) {
	var head [recordHead]byte
	if err := r.full(head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxPayload {
		return 0, nil, r.damaged(fmt.Errorf("a record of %d bytes", n))
	}
	if n <= 64<<10 {
		payload := make([]byte, n)
		return head[0], payload, r.full(payload)
	}
	var payload bytes.Buffer
	got, err := io.CopyN(io.MultiWriter(&payload, r.sum), r.from, int64(n))
	r.n += got
	if err != nil {
		return 0, nil, r.cut(err)
	}
	return head[0], payload.Bytes(), nil
}

// full reads exactly len(b) bytes.
func (r *Reader) full(b []byte) error {
	n, err := io.ReadFull(r.from, b)
	r.n += int64(n)
	if err != nil {
		return r.cut(err)
	}
	r.sum.Write(b)
	return nil
}

// cut says that the stream has ended too early, or passes on what the reader below said.
func (r *Reader) cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w after %d bytes: it was not saved or copied to its end; copy it again or use another one", ErrTruncated, r.n)
	}
	return err
}

func (r *Reader) damaged(why error) error {
	return fmt.Errorf("%w before byte %d (%w): copy it again or use another one", ErrDamaged, r.n, why)
}

// recognise reads the magic and the version, and says of what is something else what it is.
func (r *Reader) recognise() error {
	start, err := r.from.Peek(preamble)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return err
	case len(start) == 0:
		return fmt.Errorf("%w: it is empty", ErrTruncated)
	case len(start) < preamble && bytes.HasPrefix([]byte(magic), start[:min(len(start), len(magic))]):
		r.n = int64(len(start))
		return r.cut(io.ErrUnexpectedEOF)
	case len(start) < preamble || string(start[:len(magic)]) != magic:
		ahead, _ := r.from.Peek(64) // the error is that there is less
		return fmt.Errorf("%w: %s", ErrForeign, foreign(ahead))
	}
	if v := binary.BigEndian.Uint32(start[len(magic):]); v == 0 {
		return r.damaged(errors.New("format version 0"))
	} else if v > FormatVersion {
		return fmt.Errorf("%w: it has version %d, this one reads up to %d; use the kineshim that took it, or a newer one", ErrNewer, v, FormatVersion)
	}
	return r.full(make([]byte, preamble))
}

// foreign names what a file is that begins like this, and what to do with it.
func foreign(start []byte) string {
	// bbolt's page 0 is a page header of 16 bytes and then a meta page, whose magic is in the byte order of the machine.
	if len(start) >= 20 {
		m := start[16:20]
		if binary.LittleEndian.Uint32(m) == 0xED0CDAED || binary.BigEndian.Uint32(m) == 0xED0CDAED {
			return "it is a snapshot of etcd itself (a bbolt file). Restore it into an etcd with etcdutl snapshot restore, " +
				"and copy the keys over from there with etcdctl make-mirror"
		}
	}
	switch {
	case bytes.HasPrefix(start, []byte("PGDMP")):
		return "it is a dump of PostgreSQL; use pg_restore"
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}), bytes.HasPrefix(start, []byte("BZh")),
		bytes.HasPrefix(start, []byte{0xfd, '7', 'z', 'X', 'Z'}), bytes.HasPrefix(start, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return "it is compressed; decompress it first"
	case bytes.HasPrefix(start, []byte(magic[:9])):
		return "it was one until a transfer changed its line ends; copy it in binary mode"
	}
	return "it begins like none; give the file that shimctl snapshot save or etcdctl snapshot save has made"
}

// Verify reads a snapshot to its end.
func Verify(from io.Reader) (Header, error) {
	r, err := NewReader(from)
	if err != nil {
		return Header{}, err
	}
	for {
		if _, err := r.Next(); errors.Is(err, io.EOF) {
			return r.Header(), nil
		} else if err != nil {
			return Header{}, err
		}
	}
}
