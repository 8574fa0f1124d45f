package kinetable

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// copyOf is a COPY of a row, as Replace writes it.
func copyOf(rows ...[][]byte) []byte {
	b := append([]byte(copySignature), make([]byte, 8)...)
	for _, row := range rows {
		b = binary.BigEndian.AppendUint16(b, uint16(len(row)))
		for _, f := range row {
			if f == nil {
				b = append(b, 0xff, 0xff, 0xff, 0xff)
				continue
			}
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(f))), f...)
		}
	}
	return append(b, 0xff, 0xff)
}

func int4(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func rowFields(id int64, name, value string) [][]byte {
	return [][]byte{encoded(id), []byte(name), int4(1), int4(0), encoded(0), encoded(0), int4(0), nil, nil, nil, nil, nil, []byte(value)}
}

// FuzzCopy: whatever PostgreSQL's COPY holds, and in whatever pieces it comes, it is the same rows or an error, and no more is kept of it than it has bytes. What
// the loader takes of them goes up.
func FuzzCopy(f *testing.F) {
	compact := [][]byte{encoded(1), []byte(compactName), int4(0), int4(0), encoded(0), encoded(0), int4(0), nil, nil, nil, nil, nil, nil}
	whole := copyOf(compact, rowFields(2, "/a", "v"), rowFields(3, compactAPIName, "7|x"))
	f.Add(whole, 1)
	f.Add(whole, 1000)
	f.Add(whole[:len(whole)-7], 5)
	f.Add(copyOf(rowFields(3, "a", ""), rowFields(3, "b", "")), 64)
	f.Add(append([]byte(copySignature), 0, 0, 0, 0, 0, 0, 0, 0, 0, 13, 0x7f, 0xff, 0xff, 0xff), 3)
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		read := func(piece int) (string, error) {
			var rows strings.Builder
			last := int64(0)
			l := loader{each: func(r LoadedRow, columns [][]byte) error {
				if r.ID <= last || r.Revision > r.ID || len(columns) != rowColumnCount+1 {
					t.Fatalf("after row %d: %+v", last, r)
				}
				last = r.ID
				rows.WriteString(r.Key)
				return nil
			}}
			c := copyReader{columns: rowColumnCount + 1, row: func(f [][]byte) error {
				if len(f) != rowColumnCount+1 {
					t.Fatalf("%d columns", len(f))
				}
				for _, v := range f {
					rows.WriteString("," + string(v))
				}
				return l.row(f)
			}}
			for rest := b; len(rest) > 0; {
				n := min(piece, len(rest))
				if _, err := c.Write(rest[:n]); err != nil {
					return "", err
				}
				if rest = rest[n:]; cap(c.rest) > 4*len(b)+64 {
					t.Fatalf("%d bytes are kept of %d", cap(c.rest), len(b))
				}
			}
			return rows.String(), nil
		}
		at, atErr := read(len(b) + 1)
		in, inErr := read(1 + (piece&0x7fffffff)%64)
		// A piece that ends where a row would is seen as whole; only then may one reading fail and the other wait for more.
		if atErr == nil && inErr == nil && at != in {
			t.Fatalf("in one piece %q, in several %q", at, in)
		}
	})
}

// FuzzNames: each key has a name that the table takes, and is found again by it.
func FuzzNames(f *testing.F) {
	for _, key := range []string{"", "/registry/pods/a", compactKey, compactAPIName, compactName, escapePrefix, "\xff", "a\x00b", strings.Repeat("k", 3000), "ä"} {
		f.Add(key, 630, true)
		f.Add(key, 0, false)
	}
	f.Fuzz(func(t *testing.T, key string, maxChars int, utf8 bool) {
		n := naming{maxChars: max(maxChars, 128) % 10_000, utf8: utf8}
		name, escaped := n.name(key)
		if name == compactName || len(name) > maxIndexedBytes || strings.ContainsRune(name, 0) {
			t.Fatalf("the name %q", name)
		}
		var stored []byte
		if escaped {
			stored = []byte(key)
			if stored == nil {
				stored = []byte{}
			}
		}
		if got := keyOf([]byte(name), stored); got != key {
			t.Fatalf("%q became %q by %q", key, got, name)
		}
	})
}

// FuzzVersion: a version is found again with its value, and what is stored otherwise has none.
func FuzzVersion(f *testing.F) {
	f.Add([]byte("7|value"))
	f.Add([]byte("7"))
	f.Add([]byte("-1|x"))
	f.Fuzz(func(t *testing.T, stored []byte) {
		version, value := decodeVersion(stored)
		if version < 0 {
			t.Fatalf("version %d", version)
		}
		v, again := decodeVersion(encodeVersion(version, value))
		if v != version || !bytes.Equal(again, value) {
			t.Fatalf("%d|%q became %d|%q", version, value, v, again)
		}
	})
}
