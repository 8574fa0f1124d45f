package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

// content is a whole snapshot.
type content struct {
	Header Header
	Leases []Lease
	Rows   []Row
}

func (c content) encode(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, c.Header)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range c.Leases {
		err = errors.Join(err, w.Lease(l))
	}
	for _, r := range c.Rows {
		err = errors.Join(err, w.Row(r))
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	if w.Written() != int64(b.Len()) {
		t.Fatalf("%d bytes are said to be written, %d are", w.Written(), b.Len())
	}
	return b.Bytes()
}

func decode(from io.Reader) (c content, offsets []int64, err error) {
	r, err := NewReader(from)
	if err != nil {
		return c, nil, err
	}
	c.Header = r.Header()
	for {
		rec, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return c, offsets, nil
		case err != nil:
			return c, nil, err
		case rec.Lease != nil:
			c.Leases = append(c.Leases, *rec.Lease)
		default:
			c.Rows = append(c.Rows, *rec.Row)
			offsets = append(offsets, rec.Offset)
		}
	}
}

func example() content {
	return content{
		Header: Header{ClusterID: "c-7f3a", Software: "v0.1", Taken: time.UnixMilli(1_700_000_000_123), Revision: 90, Compacted: -1, Keys: 3, Leases: 2},
		Leases: []Lease{{ID: -5, TTL: 10, Remaining: 1500 * time.Millisecond}, {ID: 7, TTL: 60, Remaining: time.Minute}},
		Rows: []Row{
			{Key: "/a", Value: []byte("one"), Create: 2, Mod: 2, Version: 1},
			{Key: "/b", Value: bytes.Repeat([]byte("x"), 100<<10), Create: 3, Mod: 90, Version: 4, Lease: 7},
			{Key: "\xff\x00", Create: 90, Mod: 90, Version: 1},
		},
	}
}

// same compares contents; an empty value is the same as none.
var same = cmp.Transformer("value", func(r Row) map[string]any {
	return map[string]any{"key": r.Key, "value": string(r.Value), "meta": [...]int64{r.Create, r.Mod, r.Version, r.Lease}}
})

func TestWhatIsWrittenIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := content{Header: Header{
			ClusterID: rapid.String().Draw(t, "cluster"), Software: rapid.StringN(0, 20, -1).Draw(t, "software"),
			Taken: time.UnixMilli(rapid.Int64Range(0, 1<<42).Draw(t, "taken")), Revision: rapid.Int64Range(1, math.MaxInt64).Draw(t, "revision"),
		}}
		c.Header.Compacted = rapid.Int64Range(-1, c.Header.Revision).Draw(t, "compacted")
		ids := rapid.SliceOfNDistinct(rapid.Int64().Filter(func(i int64) bool { return i != 0 }), 0, 5, rapid.ID[int64]).Draw(t, "leases")
		slices.Sort(ids)
		for _, id := range ids {
			ttl := rapid.Int64Range(1, 9_000_000_000).Draw(t, "ttl")
			left := rapid.Int64Range(0, min(ttl*1000, math.MaxInt64/int64(time.Millisecond))).Draw(t, "left")
			c.Leases = append(c.Leases, Lease{ID: id, TTL: ttl, Remaining: time.Duration(left) * time.Millisecond})
		}
		keys := rapid.SliceOfNDistinct(rapid.StringN(1, 20, -1), 0, 20, rapid.ID[string]).Draw(t, "keys")
		slices.Sort(keys)
		for _, k := range keys {
			mod := rapid.Int64Range(1, c.Header.Revision).Draw(t, "mod")
			c.Rows = append(c.Rows, Row{
				Key: k, Value: rapid.SliceOfN(rapid.Byte(), 0, 600).Draw(t, "value"), Mod: mod, Create: rapid.Int64Range(1, mod).Draw(t, "create"),
				Version: rapid.Int64Min(1).Draw(t, "version"), Lease: rapid.Int64().Draw(t, "lease"),
			})
		}
		c.Header.Leases, c.Header.Keys = int64(len(c.Leases)), int64(len(c.Rows))

		var b bytes.Buffer
		w, err := NewWriter(&b, c.Header)
		for _, l := range c.Leases {
			err = errors.Join(err, w.Lease(l))
		}
		for _, r := range c.Rows {
			err = errors.Join(err, w.Row(r))
		}
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		if b.Len()%512 != 32 {
			t.Fatalf("etcdctl snapshot save refuses %d bytes", b.Len())
		}
		got, _, err := decode(iotest.OneByteReader(bytes.NewReader(b.Bytes())))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, got, same); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestTheChecksumCoversAllBeforeIt(t *testing.T) {
	b := example().encode(t)
	body, sum := b[:len(b)-32], b[len(b)-32:]
	if want := sha256.Sum256(body); !bytes.Equal(sum, want[:]) {
		t.Error("the last 32 bytes are not the SHA-256 of what stands before")
	}
}

func TestRowsAreFoundAgainAtTheirOffsets(t *testing.T) {
	b := example().encode(t)
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if rec.Row == nil {
			continue
		}
		row, ok := DecodeRow(b[rec.Offset : rec.Offset+int64(rec.Length)])
		if diff := cmp.Diff(*rec.Row, row, same); !ok || diff != "" {
			t.Error(ok, diff)
		}
		found++
	}
	if found != 3 || r.Read() != int64(len(b)) {
		t.Errorf("%d rows, %d bytes of %d", found, r.Read(), len(b))
	}
}

func TestEveryTruncationIsRefused(t *testing.T) {
	b := example().encode(t)
	for n := range len(b) {
		if n > 400 && n < len(b)-700 && n%997 != 0 {
			continue // inside of the long value
		}
		if _, _, err := decode(bytes.NewReader(b[:n])); !errors.Is(err, ErrTruncated) {
			t.Fatalf("cut after %d of %d bytes: %v", n, len(b), err)
		}
	}
}

func TestEveryFlippedBitIsRefused(t *testing.T) {
	c := example()
	c.Rows[1].Value = c.Rows[1].Value[:100]
	b := c.encode(t)
	for i := range len(b) * 8 {
		b[i/8] ^= 1 << (i % 8)
		if _, _, err := decode(bytes.NewReader(b)); err == nil {
			t.Fatalf("bit %d of byte %d may be flipped", i%8, i/8)
		}
		b[i/8] ^= 1 << (i % 8)
	}
	if _, _, err := decode(bytes.NewReader(b)); err != nil {
		t.Error(err)
	}
}

func TestWhatFollowsTheEndIsRefused(t *testing.T) {
	b := append(example().encode(t), 0)
	if _, _, err := decode(bytes.NewReader(b)); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "follows") {
		t.Error(err)
	}
}

func TestANewerFormatIsRefusedAndSaysWhatToUse(t *testing.T) {
	b := example().encode(t)
	binary.BigEndian.PutUint32(b[len(magic):], FormatVersion+1)
	if _, _, err := decode(bytes.NewReader(b)); !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "use the kineshim that took it, or a newer one") {
		t.Error(err)
	}
}

func TestForeignFilesAreNamed(t *testing.T) {
	unix := bytes.ReplaceAll(example().encode(t), []byte("\r\n"), []byte("\n"))
	for name, c := range map[string]struct {
		file []byte
		says string
	}{
		"etcd":       {realBolt(t), "a snapshot of etcd itself"},
		"pg_dump":    {[]byte("PGDMP\x01\x0e\x00 and so on and on"), "pg_restore"},
		"gzip":       {[]byte("\x1f\x8b\x08\x00 and so on and on on"), "decompress it first"},
		"line ends":  {unix, "binary mode"},
		"text":       {[]byte("apiVersion: v1\nkind: List\nitems: []\n"), "begins like none"},
		"short text": {[]byte("hello"), "begins like none"},
	} {
		_, _, err := decode(bytes.NewReader(c.file))
		if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Verify(strings.NewReader("")); !errors.Is(err, ErrTruncated) || !strings.Contains(err.Error(), "empty") {
		t.Errorf("an empty file: %v", err)
	}
}

// realBolt is the file of a bbolt database, as etcd's is one.
func realBolt(t *testing.T) []byte {
	t.Helper()
	db, err := bbolt.Open(t.TempDir()+"/db", 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var b bytes.Buffer
	if err := db.View(func(tx *bbolt.Tx) error { _, err := tx.WriteTo(&b); return err }); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestTheReaderBelowKeepsItsError(t *testing.T) {
	lost := errors.New("the connection is lost")
	b := example().encode(t)
	for _, n := range []int{0, 10, 60, 300, len(b) - 10} {
		_, err := Verify(io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(lost)))
		if !errors.Is(err, lost) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func TestTheWriterRefusesWhatTheReaderWould(t *testing.T) {
	header := example().Header
	for name, spoil := range map[string]func(*content){
		"rows out of order":    func(c *content) { c.Rows[0], c.Rows[1] = c.Rows[1], c.Rows[0] },
		"a key twice":          func(c *content) { c.Rows[1].Key = c.Rows[0].Key },
		"an empty key":         func(c *content) { c.Rows[0].Key = "" },
		"a later revision":     func(c *content) { c.Rows[0].Mod = 91 },
		"created after change": func(c *content) { c.Rows[1].Create = 91 },
		"version 0":            func(c *content) { c.Rows[0].Version = 0 },
		"a lease twice":        func(c *content) { c.Leases[1].ID = c.Leases[0].ID },
		"lease 0":              func(c *content) { c.Leases[0].ID = 0 },
		"more than granted":    func(c *content) { c.Leases[0].Remaining = 11 * time.Second },
		"too many keys":        func(c *content) { c.Header.Keys = 2 },
		"too few keys":         func(c *content) { c.Header.Keys = 4 },
		"too few leases":       func(c *content) { c.Header.Leases = 3 },
		"revision 0":           func(c *content) { c.Header.Revision = 0 },
		"compacted later":      func(c *content) { c.Header.Compacted = 91 },
	} {
		c := example()
		c.Header = header
		spoil(&c)
		w, err := NewWriter(io.Discard, c.Header)
		for _, l := range c.Leases {
			if err == nil {
				err = w.Lease(l)
			}
		}
		for _, r := range c.Rows {
			if err == nil {
				err = w.Row(r)
			}
		}
		if err == nil {
			err = w.Close()
		}
		if err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

// FuzzReader: whatever the bytes are, the reader ends, and what it accepts is what a writer writes.
func FuzzReader(f *testing.F) {
	c := example()
	c.Rows[1].Value = []byte("two")
	whole := c.encode(f)
	f.Add(whole)
	f.Add(whole[:len(whole)-40])
	f.Add(content{Header: Header{Revision: 1}}.encode(f))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		// The checksum is put right, or nothing behind it would ever be reached.
		if len(b) > checksumBytes {
			sum := sha256.Sum256(b[:len(b)-checksumBytes])
			copy(b[len(b)-checksumBytes:], sum[:])
		}
		c, _, err := decode(bytes.NewReader(b))
		if err != nil {
			for _, known := range []error{ErrForeign, ErrNewer, ErrTruncated, ErrDamaged} {
				if errors.Is(err, known) {
					return
				}
			}
			t.Fatalf("an error of no kind: %v", err)
		}
		if again := c.encode(t); !bytes.Equal(again, b) {
			t.Fatalf("accepted, but written otherwise: %x, %x", b, again)
		}
	})
}
