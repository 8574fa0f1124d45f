package record

import (
	"testing"

	"pgregory.net/rapid"
)

func TestLSN(t *testing.T) {
	for s, want := range map[string]LSN{
		"0/0": 0, "16/B374D848": 0x16_B374D848, "16/b374d848": 0x16_B374D848, "0/1000": 0x1000, "FFFFFFFF/FFFFFFFF": 1<<64 - 1, "00000001/00000002": 1<<32 | 2,
	} {
		if got, err := ParseLSN(s); err != nil || got != want {
			t.Errorf("%s: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "/", "0", "0/", "/0", "0/0/0", "1FFFFFFFF/0", "0/1FFFFFFFF", "-1/0", "0/ 1", "0x1/0", "g/0", " 0/0", "0/0\n"} {
		if got, err := ParseLSN(s); err == nil {
			t.Errorf("%q parsed to %v", s, got)
		}
	}
	if got := LSN(0x16_0374D848).String(); got != "16/374D848" {
		t.Error(got)
	}
	l := LSN(5)
	if err := l.UnmarshalText([]byte("nonsense")); err == nil || l != 5 {
		t.Errorf("nonsense gave %v, %v", l, err)
	}
}

func TestLSNRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := LSN(rapid.Uint64().Draw(t, "lsn"))
		got, err := ParseLSN(l.String())
		if err != nil || got != l {
			t.Fatalf("%d printed %s, parsed %d, %v", uint64(l), l, uint64(got), err)
		}
	})
}
