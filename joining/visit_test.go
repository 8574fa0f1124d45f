package joining

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kineshim/pki"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
)

// founder is a founder on loopback.
type founder struct {
	book        Book
	host        *Host
	credentials *pki.Credentials
	authority   *pki.Authority
	address     string
	data, wit   Token
}

func newFounder(t *testing.T) *founder {
	t.Helper()
	f := &founder{book: Book{Dir: t.TempDir()}}
	cluster := raftwitness.NewClusterID()
	self := raftwitness.Identity{ClusterID: cluster, Name: "a", ServerID: "a-1", Role: record.Data}
	var err error
	if f.authority, err = pki.NewAuthority(cluster, time.Now()); err != nil {
		t.Fatal(err)
	}
	e, err := self.Enrolment(f.authority, time.Hour)
	if err == nil {
		err = e.Certificates.Save(raftwitness.CertificatesDir(f.book.Dir))
	}
	if err == nil {
		f.credentials, err = self.LoadCredentials(f.book.Dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.host = &Host{
		Book: f.book, Authority: f.authority, Lifetime: time.Hour, Secrets: []byte(`{"superuser":"s"}`), PostgresMajor: 15,
		Settings: func() (string, error) { return "vips: []\n", nil }, Log: slog.New(slog.DiscardHandler),
	}
	f.listen(t, cluster)
	list := New(cluster, 500*time.Millisecond, raftwitness.Peer{
		Member: record.Member{Name: "a", ServerID: "a-1", Role: record.Data}, Raft: f.address, Peer: "127.0.0.1:2", Postgres: "127.0.0.1:3",
	})
	now := time.Now()
	for role, token := range map[record.Role]*Token{record.Data: &f.data, record.Witness: &f.wit} {
		if *token, err = list.Invite(role, f.authority.Fingerprint(), time.Hour, now); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.book.Save(list); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *founder) listen(t *testing.T, cluster string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := raftwitness.NewListener(ln, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { l.Close() })
	l.Receive(cluster, Protocol, f.credentials.Reception(Protocol), f.host.Serve)
	f.address = ln.Addr().String()
}

// begins has the founder know that its cluster is founded.
func (f *founder) begins() {
	f.host.Current = func(name string) (string, bool) {
		list, err := f.book.Load()
		if err != nil {
			return "", false
		}
		for _, p := range list.Peers() {
			if p.Name == name {
				return p.ServerID, true
			}
		}
		return "", false
	}
}

func (f *founder) visit(t *testing.T, token Token, name string) Visit {
	t.Helper()
	return Visit{
		Token: token, Dir: t.TempDir(), Request: Request{Name: name, Host: "host-" + name, PostgresMajor: 15},
		Settle: func(q *Request, local net.IP) error {
			if !local.IsLoopback() {
				return errors.New("not from here")
			}
			q.Raft, q.Peer, q.Postgres = name+":1", name+":2", name+":3"
			return nil
		},
		Say: t.Logf,
	}
}

func (v Visit) join(t *testing.T) (raftwitness.Enrolment, Answer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	e, a, err := v.Join(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return e, a
}

func TestBothGuestsBecomeMembers(t *testing.T) {
	f := newFounder(t)
	b, w := f.visit(t, f.data, "b"), f.visit(t, f.wit, "w")
	impatient, cancel := context.WithCancel(t.Context())
	defer cancel()
	backstop := time.AfterFunc(20*time.Second, cancel)
	defer backstop.Stop()
	b.Say = func(format string, args ...any) {
		if strings.Contains(fmt.Sprintf(format, args...), "until the witness has joined") {
			cancel()
		}
	}
	if _, _, err := b.Join(impatient); err == nil || !strings.Contains(err.Error(), "until the witness has joined") {
		t.Errorf("alone: %v", err)
	}
	if a, _, err := w.Check(t.Context()); err != nil || a.Founder != "a" {
		t.Errorf("check: %+v, %v", a, err)
	}
	f.begins()
	we, wa := w.join(t)
	if we.Identity.Role != record.Witness || len(we.Secrets) != 0 || we.Certificates.CAKey != "" || wa.Settings != "" {
		t.Errorf("the witness was given %+v, %q", we, wa.Settings)
	}
	be, ba := b.join(t)
	if be.Identity.Role != record.Data || string(be.Secrets) != `{"superuser":"s"}` || be.Certificates.CAKey == "" || ba.Settings != "vips: []\n" {
		t.Errorf("the data node was given %+v, %q", be, ba.Settings)
	}
	if p, ok := we.Identity.PeerByName("b"); !ok || p.ServerID != be.Identity.ServerID || p.Raft != "b:1" || p.Postgres != "b:3" {
		t.Errorf("the witness knows b as %+v", p)
	}
	// Interrupted after that: the same machine gets the same.
	if again, _ := b.join(t); again.Identity.ServerID != be.Identity.ServerID {
		t.Errorf("again: %s, before %s", again.Identity.ServerID, be.Identity.ServerID)
	}
	if err := b.Forget(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(b.Dir, visitFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the key is still there: %v", err)
	}
}

func TestGuestsThatAreRefused(t *testing.T) {
	f := newFounder(t)
	if _, _, err := f.visit(t, f.data, "b").Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := newFounder(t)
	foreign := other.data
	foreign.Addresses = f.data.Addresses // the founder of another cluster is asked
	pinned := f.data
	pinned.Authority[0]++
	older := f.visit(t, f.data, "b")
	older.Request.PostgresMajor = 14
	nameless := f.visit(t, f.data, "B and more")
	f.host.VIPs = []netip.Addr{netip.MustParseAddr("192.0.2.50")}
	atVIP := f.visit(t, f.data, "b")
	atVIP.Settle = func(q *Request, _ net.IP) error {
		q.Raft, q.Peer, q.Postgres = "192.0.2.50:1", "192.0.2.50:2", "192.0.2.50:3"
		return nil
	}
	for name, c := range map[string]struct {
		v    Visit
		want string
	}{
		"another cluster's":      {f.visit(t, foreign, "b"), "does not know cluster " + foreign.Cluster},
		"another authority":      {f.visit(t, pinned, "b"), errStranger.Error()},
		"other major PostgreSQL": {older, "PostgreSQL 14, the founder has 15"},
		"no name":                {nameless, "not a name"},
		"at a virtual address":   {atVIP, "192.0.2.50 moves between the servers"},
	} {
		if _, _, err := c.v.Check(t.Context()); err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(c.want)) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
	if list, err := f.book.Load(); err != nil || len(list.Missing()) != 2 {
		t.Errorf("somebody was let in: %v, %v", list.Missing(), err)
	}
}

// The founder's word is not enough: what it gives has to be what the token is for.
func TestAnswersThatAreNotWhatTheTokenIsForAreRefused(t *testing.T) {
	f := newFounder(t)
	f.begins()
	w, joined := f.visit(t, f.wit, "w"), make(chan error)
	go func() {
		_, _, err := f.visit(t, f.data, "b").Join(t.Context())
		joined <- err
	}()
	good, _ := w.join(t)
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
	if err := w.asked(good); err != nil {
		t.Fatal(err)
	}
	other := string(newFounder(t).authority.PEM())
	for name, spoil := range map[string]func(*raftwitness.Enrolment){
		"another cluster":   func(e *raftwitness.Enrolment) { e.Identity.ClusterID = "../" + e.Identity.ClusterID },
		"another name":      func(e *raftwitness.Enrolment) { e.Identity.Name = "v" },
		"another role":      func(e *raftwitness.Enrolment) { e.Identity.Role = record.Data },
		"another authority": func(e *raftwitness.Enrolment) { e.Certificates.CA = other },
		"no authority":      func(e *raftwitness.Enrolment) { e.Certificates.CA = "" },
	} {
		bad := good
		spoil(&bad)
		if err := w.asked(bad); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMemberThatWasReplacedIsNotGivenItsOldIdentity(t *testing.T) {
	f := newFounder(t)
	f.begins()
	w, joined := f.visit(t, f.wit, "w"), make(chan error)
	go func() {
		_, _, err := f.visit(t, f.data, "b").Join(t.Context())
		joined <- err
	}()
	w.join(t)
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
	f.host.Current = func(string) (string, bool) { return "w-new", true }
	if _, _, err := w.Join(t.Context()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "shimctl witness replace") {
		t.Errorf("%v", err)
	}
}

func TestFounderIsWaitedForWhileItIsAway(t *testing.T) {
	f := newFounder(t)
	v := f.visit(t, f.data, "b")
	v.Token.Addresses = []string{"127.0.0.1:1"} // nobody listens there
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, _, err := v.Join(ctx); err == nil || !strings.Contains(err.Error(), "does not answer") || errors.Is(err, ErrRefused) {
		t.Errorf("%v", err)
	}
}
