package joining

import (
	"errors"
	"strings"
	"testing"
	"time"

	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
)

func someToken() Token {
	return Token{
		Cluster: raftwitness.NewClusterID(), Role: record.Witness, Authority: [32]byte{1, 2, 3}, Secret: newSecret(),
		Expires: time.Date(2026, 12, 1, 10, 0, 0, 0, time.UTC), Addresses: []string{"192.168.1.10:2384", "[fd00::10]:2384"},
	}
}

func TestTokenIsReadAsItWasMade(t *testing.T) {
	want := someToken()
	for _, text := range []string{want.String(), "  " + want.String() + "\n", want.String()[:40] + "\n   " + want.String()[40:]} {
		got, err := ParseToken(text)
		if err != nil || got.String() != want.String() || got.Role != want.Role || !got.Expires.Equal(want.Expires) || got.Cluster != want.Cluster {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
}

func TestDamagedTokenIsRefused(t *testing.T) {
	whole := someToken().String()
	for i := range whole {
		other := byte('A')
		if whole[i] == other {
			other = 'B'
		}
		if _, err := ParseToken(whole[:i] + string(other) + whole[i+1:]); !errors.Is(err, ErrNoToken) {
			t.Fatalf("character %d changed: %v", i, err)
		}
		if _, err := ParseToken(whole[:i]); !errors.Is(err, ErrNoToken) {
			t.Fatalf("cut after %d: %v", i, err)
		}
	}
}

func TestTokenIsReadFromTheFirstLineOnly(t *testing.T) {
	want := someToken()
	if got, err := ReadToken(strings.NewReader(want.String() + "\nmore\n")); err != nil || got.String() != want.String() {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := ReadToken(strings.NewReader("\n")); err == nil || !strings.Contains(err.Error(), "echo TOKEN") {
		t.Errorf("nothing typed: %v", err)
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(someToken().String())
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := ParseToken(text); err == nil {
			if again, err := ParseToken(got.String()); err != nil || again.String() != got.String() {
				t.Errorf("%+v is read as %+v, %v", got, again, err)
			}
		}
	})
}
