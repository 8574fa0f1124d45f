package deathwatch

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"testing"
)

// FuzzOpening: what is read as orders is bounded, and can be sent on with the same meaning.
func FuzzOpening(f *testing.F) {
	whole, err := encodeOpening(opening{Parent: 7, Orders: json.RawMessage(`{"DataDir":"/x"}`)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 4, 'n', 'u', 'l', 'l'})
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := readOpening(bytes.NewReader(b))
		if err != nil {
			return
		}
		if len(o.Orders) > maxOpening {
			t.Fatalf("%d bytes of orders", len(o.Orders))
		}
		again, err := encodeOpening(o)
		if err != nil {
			return // escaped, they may be longer than what fits
		}
		p, err := readOpening(bytes.NewReader(again))
		if err != nil || p.Parent != o.Parent || canonical(p.Orders) != canonical(o.Orders) {
			t.Fatalf("%+v became %+v, %v", o, p, err)
		}
	})
}

func canonical(b []byte) string {
	var v any
	if json.Unmarshal(b, &v) != nil {
		return "null" // nil: there are none
	}
	c, _ := json.Marshal(v)
	return string(c)
}

// FuzzTerms: an end is believed only between two terms, and never after a release; the term is the highest that was said.
func FuzzTerms(f *testing.F) {
	f.Add([]byte{})
	f.Add(append(encodeTerm(3), encodeTerm(2)...))
	f.Add(append(encodeTerm(3), encodeTerm(released)...))
	f.Add(append(encodeTerm(3), 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		var highest uint64
		var want error
		rest := b
		for len(rest) >= termSize && want == nil {
			term := binary.BigEndian.Uint64(rest)
			highest, rest = max(highest, term), rest[termSize:]
			if term == released {
				want = errReleased
			}
		}
		got, err := watch(bytes.NewReader(b))
		switch {
		case want != nil && !errors.Is(err, errReleased):
			t.Fatalf("released, and %d, %v", got, err)
		case want == nil && len(rest) > 0 && (err == nil || errors.Is(err, errReleased)):
			t.Fatalf("it ended within a term, and %d, %v", got, err)
		case want == nil && len(rest) == 0 && (err != nil || got != highest):
			t.Fatalf("%d, %v, want %d", got, err, highest)
		}
	})
}
