package joining

import (
	"strings"
	"testing"
	"time"

	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func founding(t *testing.T) (f *Founding, data, witness Token) {
	t.Helper()
	f = New("00112233445566ff", 500*time.Millisecond, raftwitness.Peer{
		Member: record.Member{Name: "a", ServerID: "a-1", Role: record.Data}, Raft: "10.0.0.1:2384", Peer: "10.0.0.1:2383", Postgres: "10.0.0.1:5433",
	})
	return f, invite(t, f, record.Data), invite(t, f, record.Witness)
}

func invite(t *testing.T, f *Founding, role record.Role) Token {
	t.Helper()
	token, err := f.Invite(role, [32]byte{}, time.Hour, noon)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func dataRequest(token Token, name, host string) Request {
	return Request{Secret: token.Secret[:], Name: name, Host: "host-" + name, Raft: host + ":2384", Peer: host + ":2383", Postgres: host + ":5433"}
}

func TestAdmission(t *testing.T) {
	joined := func(f *Founding, token Token) {
		if _, changed, err := f.Admit(dataRequest(token, "b", "10.0.0.2"), []byte("b's key"), "10.0.0.2", noon); err != nil || !changed {
			t.Fatalf("admit b: %v, %v", changed, err)
		}
	}
	for name, c := range map[string]struct {
		before func(f *Founding, token Token)
		change func(q *Request)
		key    string
		at     time.Time
		want   string // in the refusal; "": admitted
	}{
		"first":                  {},
		"again with its own key": {before: joined, key: "b's key", at: noon.Add(90 * 24 * time.Hour)},
		"another machine's":      {before: joined, key: "c's key", want: "used already, by b (host-b, seen at 10.0.0.2)"},
		"ended":                  {at: noon.Add(time.Hour + time.Second), want: "ended on 2026-11-30 13:00:00; by the clock of a it is 2026-11-30 13:00:01"},
		"unknown":                {change: func(q *Request) { q.Secret = []byte("guessed") }, want: "not known"},
		"replaced by a new one":  {before: func(f *Founding, _ Token) { invite(t, f, record.Data) }, want: "a newer one was made"},
		"name taken":             {change: func(q *Request) { q.Name = "a" }, want: `called "a" already`},
		"address taken":          {change: func(q *Request) { q.Peer = "10.0.0.1:2383" }, want: "address of a already"},
		"no address":             {change: func(q *Request) { q.Postgres = "" }, want: "not host:port"},
		"no port":                {change: func(q *Request) { q.Raft = "10.0.0.2:0" }, want: "not host:port"},
	} {
		t.Run(name, func(t *testing.T) {
			f, token, _ := founding(t)
			if c.before != nil {
				c.before(f, token)
			}
			q := dataRequest(token, "b", "10.0.0.2")
			if c.change != nil {
				c.change(&q)
			}
			at := c.at
			if at.IsZero() {
				at = noon
			}
			before := len(f.Missing())
			g, changed, err := f.Admit(q, []byte(c.key), "10.0.0.9", at)
			switch {
			case c.want == "" && (err != nil || g.Name != "b" || g.ServerID == ""):
				t.Errorf("refused: %v; %+v", err, g)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v; want %q", err, c.want)
			case c.want != "" && (changed || len(f.Missing()) != before):
				t.Error("a refused one has changed the list")
			}
		})
	}
}

// A name or an address that was wrong can be put right by joining again, until the others have been told.
func TestGuestCorrectsItselfUntilTheOthersKnowIt(t *testing.T) {
	f, data, witness := founding(t)
	key := []byte("b's key")
	admit := func(q Request, key []byte) (Guest, bool) {
		t.Helper()
		g, changed, err := f.Admit(q, key, "10.0.0.2", noon)
		if err != nil {
			t.Fatal(err)
		}
		return g, changed
	}
	first, _ := admit(dataRequest(data, "b", "192.168.0.2"), key)
	if _, changed := admit(dataRequest(data, "b", "192.168.0.2"), key); changed {
		t.Error("the same again is a change")
	}
	dry := dataRequest(data, "b", "10.0.0.2")
	dry.Dry = true
	if g, changed := admit(dry, key); changed || g.Raft != "10.0.0.2:2384" || f.Peers()[1].Raft != "192.168.0.2:2384" {
		t.Errorf("dry: %+v, %t, %+v", g, changed, f.Peers())
	}
	g, changed := admit(dataRequest(data, "b", "10.0.0.2"), key)
	if !changed || g.Raft != "10.0.0.2:2384" || g.Postgres != "10.0.0.2:5433" || g.ServerID != first.ServerID || f.Peers()[1] != g.Peer {
		t.Errorf("another address: %+v, %t, %+v", g, changed, f.Peers())
	}
	if g, _ := admit(dataRequest(data, "box", "10.0.0.2"), key); g.Name != "box" || g.ServerID == first.ServerID || len(f.Peers()) != 2 {
		t.Errorf("another name: %+v, %+v", g, f.Peers())
	}
	if _, _, err := f.Admit(dataRequest(data, "a", "10.0.0.2"), key, "", noon); err == nil || !strings.Contains(err.Error(), `called "a" already`) {
		t.Errorf("the founder's name: %v", err)
	}
	admit(Request{Secret: witness.Secret[:], Name: "w", Raft: "10.0.0.3:2384"}, []byte("w's key"))
	if g, changed := admit(dataRequest(data, "late", "10.0.0.9"), key); changed || g.Name != "box" {
		t.Errorf("when all three are known: %+v, %t", g, changed)
	}
}

func TestDryAdmissionChangesNothing(t *testing.T) {
	f, token, _ := founding(t)
	q := dataRequest(token, "b", "10.0.0.2")
	q.Dry = true
	if g, changed, err := f.Admit(q, []byte("k"), "", noon); err != nil || changed || g.Name != "b" || len(f.Missing()) != 2 {
		t.Errorf("%+v, %v, %v; missing %v", g, changed, err, f.Missing())
	}
}

func TestCompleteListMakesThreeIdentitiesThatAgree(t *testing.T) {
	f, data, witness := founding(t)
	if _, _, err := f.Admit(Request{Secret: witness.Secret[:], Name: "w", Raft: "10.0.0.3:2384"}, []byte("w's"), "", noon); err != nil {
		t.Fatal(err)
	}
	if f.Complete() || len(f.Missing()) != 1 || f.Missing()[0] != record.Data {
		t.Errorf("missing: %v", f.Missing())
	}
	if _, _, err := f.Admit(dataRequest(data, "b", "10.0.0.2"), []byte("b's"), "", noon); err != nil {
		t.Fatal(err)
	}
	if !f.Complete() {
		t.Fatalf("missing: %v", f.Missing())
	}
	for _, p := range f.Peers() {
		id := f.Identity(p)
		if err := id.Validate(); err != nil || id.Founder != "a" || len(id.Peers) != 3 || id.IsFounder() != (p.Name == "a") {
			t.Errorf("%s: %v; %+v", p.Name, err, id)
		}
	}
	if _, err := f.Invite(record.Witness, [32]byte{}, time.Hour, noon); err == nil || !strings.Contains(err.Error(), "shimctl witness replace") {
		t.Errorf("a token for a complete cluster: %v", err)
	}
	if f.Over(noon.Add(time.Hour)) || !f.Over(noon.Add(time.Hour+time.Second)) {
		t.Error("the tokens end an hour after they were made")
	}
}
