package mvcc

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func TestSpanOfEveryForm(t *testing.T) {
	cases := []struct {
		name     string
		key, end string
		want     Span
		single   bool
		empty    bool
		in, out  []string
	}{
		{"one key", "b", "", Span{From: "b", To: "b\x00"}, true, false,
			[]string{"b"}, []string{"", "a", "a\xff", "b\x00", "ba", "c"}},
		{"one key that ends in zero", "b\x00", "", Span{From: "b\x00", To: "b\x00\x00"}, true, false,
			[]string{"b\x00"}, []string{"b", "b\x00\x00", "b\x01"}},
		{"the key after, given as the end", "b", "b\x00", Span{From: "b", To: "b\x00"}, true, false,
			[]string{"b"}, []string{"a", "b\x00", "b\x01"}},
		{"from a key on", "b", "\x00", Span{From: "b", Open: true}, false, false,
			[]string{"b", "b\x00", "c", "\xff\xff"}, []string{"", "a", "a\xff"}},
		{"all keys", "\x00", "\x00", Span{From: "\x00", Open: true}, false, false,
			[]string{"\x00", "a", "\xff"}, []string{""}},
		{"all keys, from the empty one", "", "\x00", Span{Open: true}, false, false,
			[]string{"", "\x00", "a", "\xff"}, nil},
		{"a range", "b", "d", Span{From: "b", To: "d"}, false, false,
			[]string{"b", "b\x00", "c", "c\xff\xff"}, []string{"a", "a\xff", "d", "d\x00", "e"}},
		{"a prefix", "/a/", "/a0", Span{From: "/a/", To: "/a0"}, false, false,
			[]string{"/a/", "/a/x", "/a/\xff\xff"}, []string{"/a", "/a0", "/a.", "/b"}},
		{"a range of two neighbours in length", "b", "b\x00\x00", Span{From: "b", To: "b\x00\x00"}, false, false,
			[]string{"b", "b\x00"}, []string{"b\x00\x00", "b\x01"}},
		{"end is zero and more", "", "\x00\x01", Span{To: "\x00\x01"}, false, false,
			[]string{"", "\x00", "\x00\x00"}, []string{"\x00\x01", "a"}},
		{"end equals key", "b", "b", Span{From: "b", To: "b"}, false, true,
			nil, []string{"", "a", "b", "b\x00", "c"}},
		{"end before key", "b", "a", Span{From: "b", To: "a"}, false, true,
			nil, []string{"", "a", "a\xff", "b", "c"}},
		{"end before key though it begins with it", "b\x00", "b", Span{From: "b\x00", To: "b"}, false, true,
			nil, []string{"b", "b\x00"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := SpanOf([]byte(c.key), []byte(c.end))
			if s != c.want {
				t.Fatalf("span %+v, want %+v", s, c.want)
			}
			if key, ok := s.Single(); ok != c.single || ok && key != c.key {
				t.Errorf("single: %q, %v; want %v", key, ok, c.single)
			}
			if s.Empty() != c.empty {
				t.Errorf("empty: %v", s.Empty())
			}
			for _, k := range c.in {
				if !s.Contains(k) {
					t.Errorf("%q is not in the span", k)
				}
			}
			for _, k := range c.out {
				if s.Contains(k) {
					t.Errorf("%q is in the span", k)
				}
			}
		})
	}
}

func TestZeroSpanIsEmpty(t *testing.T) {
	var s Span
	if _, ok := s.Single(); ok || !s.Empty() || s.Contains("") || s.Contains("a") {
		t.Fatal("the zero span holds something")
	}
}

func TestOpenSpanIgnoresTo(t *testing.T) {
	s := Span{From: "b", To: "b\x00", Open: true}
	if _, ok := s.Single(); ok || s.Empty() || !s.Contains("c") {
		t.Fatal("To counts in an open span")
	}
}

func TestSpanOfCopies(t *testing.T) {
	key, end := []byte("b"), []byte("d")
	s := SpanOf(key, end)
	key[0], end[0] = 'x', 'y'
	if want := (Span{From: "b", To: "d"}); s != want {
		t.Fatalf("span %+v after the request's bytes changed", s)
	}
}

// The definition of etcd's range forms, with bytes.Compare.
func TestSpanAgreesWithEtcdsDefinition(t *testing.T) {
	key := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 'a', 'b', 0xff}), 0, 3)
	rapid.Check(t, func(t *rapid.T) {
		k, end, probe := key.Draw(t, "key"), key.Draw(t, "end"), key.Draw(t, "probe")
		var want bool
		switch {
		case len(end) == 0:
			want = bytes.Equal(probe, k)
		case bytes.Equal(end, []byte{0}):
			want = bytes.Compare(probe, k) >= 0
		default:
			want = bytes.Compare(probe, k) >= 0 && bytes.Compare(probe, end) < 0
		}
		s := SpanOf(k, end)
		if got := s.Contains(string(probe)); got != want {
			t.Fatalf("%+v contains %q: %v", s, probe, got)
		}
		if want && s.Empty() {
			t.Fatalf("%+v is empty but holds %q", s, probe)
		}
		if only, ok := s.Single(); ok && want != (only == string(probe)) {
			t.Fatalf("%+v is single %q; contains %q: %v", s, only, probe, want)
		}
	})
}
