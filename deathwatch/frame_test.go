package deathwatch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestOnlyTheEndBetweenTwoTermsIsAnEnd(t *testing.T) {
	for _, tc := range []struct {
		name string
		pipe []byte
		term uint64
		err  error
	}{
		{"no term", nil, 0, nil},
		{"one", encodeTerm(7), 7, nil},
		{"the highest counts", bytes.Join([][]byte{encodeTerm(7), encodeTerm(9), encodeTerm(8)}, nil), 9, nil},
		{"released", append(encodeTerm(7), encodeTerm(released)...), 0, errReleased},
		{"torn", append(encodeTerm(7), 0, 0, 0), 0, io.ErrUnexpectedEOF},
	} {
		if term, err := watch(bytes.NewReader(tc.pipe)); term != tc.term || !errors.Is(err, tc.err) {
			t.Errorf("%s: %d, %v; want %d, %v", tc.name, term, err, tc.term, tc.err)
		}
	}
	broken := io.MultiReader(bytes.NewReader(encodeTerm(7)), errorReader{})
	if term, err := watch(broken); term != 0 || err == nil {
		t.Errorf("an error is taken for an end: %d, %v", term, err)
	}
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, errors.New("EIO") }

func TestOpeningFitsIntoAnyPipe(t *testing.T) {
	b, err := encodeOpening(opening{Parent: 5, Orders: json.RawMessage(`{"x":1}`)})
	if err != nil {
		t.Fatal(err)
	}
	rest := append(b, encodeTerm(7)...)
	r := bytes.NewReader(rest)
	if o, err := readOpening(r); err != nil || o.Parent != 5 || string(o.Orders) != `{"x":1}` {
		t.Errorf("%+v, %v", o, err)
	}
	if term, err := watch(r); term != 7 || err != nil {
		t.Errorf("after the opening: %d, %v", term, err)
	}
	long, _ := json.Marshal(strings.Repeat("x", maxOpening))
	if _, err := encodeOpening(opening{Orders: long}); err == nil {
		t.Error("too long, and yet encoded")
	}
	for _, bad := range [][]byte{nil, b[:2], b[:10], {0xff, 0xff, 0xff, 0xff, 'x'}, {0, 0, 0, 2, 'x', 'x'}} {
		if _, err := readOpening(bytes.NewReader(bad)); err == nil {
			t.Errorf("%q is taken for an opening", bad)
		}
	}
}
