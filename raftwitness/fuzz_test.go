package raftwitness

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"kineshim/pki"
	"kineshim/raftwitness/record"

	"github.com/hashicorp/raft"
)

// FuzzHello: a stranger's frame is bounded, and what was read is written as the same.
func FuzzHello(f *testing.F) {
	for _, h := range []hello{{}, {Cluster: "c", From: "a-1", To: "b-1", Promise: time.Second}, {Departed: 3}, {Ask: true}, {Void: "why"}, {Renew: []byte{1}}} {
		var b bytes.Buffer
		if err := writeFrame(&b, h); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add(append([]byte(helloMagic+"\xff\xff"), make([]byte, 1<<16)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		var h hello
		err := readFrame(r, &h)
		if read := len(b) - r.Len(); read > len(helloMagic)+2+helloMax {
			t.Fatalf("%d bytes were read", read)
		}
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeFrame(&again, h); err != nil {
			t.Fatal(err)
		}
		if again.Len() > len(helloMagic)+2+helloMax {
			return // escaped, it is longer than what is read
		}
		var got hello
		if err := readFrame(&again, &got); err != nil || mustJSON(t, got) != mustJSON(t, h) {
			t.Fatalf("%+v became %+v, %v", h, got, err)
		}
	})
}

func mustJSON(t *testing.T, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// said is a connection from which bytes come, and then nothing more.
type said struct {
	net.Conn
	r      *bytes.Reader
	answer bytes.Buffer
	closed bool
}

func (s *said) Read(b []byte) (int, error)       { return s.r.Read(b) }
func (s *said) Write(b []byte) (int, error)      { return s.answer.Write(b) }
func (s *said) Close() error                     { s.closed = true; return nil }
func (s *said) SetDeadline(time.Time) error      { return nil }
func (s *said) SetReadDeadline(time.Time) error  { return nil }
func (s *said) SetWriteDeadline(time.Time) error { return nil }
func (s *said) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 7} }
func (s *said) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 7} }

// FuzzWelcome: whatever a stranger sends to Raft's port, he is given to no group whose members speak TLS, and what he is told is bounded.
func FuzzWelcome(f *testing.F) {
	ids := identities(testPromise, map[string]string{"a": "127.0.0.1:1", "b": "127.0.0.1:1", "w": "127.0.0.1:1"})
	id := ids["w"]
	id.ClusterID = "c1"
	a, err := pki.NewAuthority("c1", time.Now())
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	e, err := id.Enrolment(a, time.Hour)
	if err == nil {
		err = e.Certificates.Save(CertificatesDir(dir))
	}
	if err != nil {
		f.Fatal(err)
	}
	credentials, err := id.LoadCredentials(dir)
	if err != nil {
		f.Fatal(err)
	}
	l := &Listener{groups: map[string]*group{}}
	g := newGroup(id, l, nil, nil)
	g.tls = credentials.Server(anybody, raftProtocol)
	if err := l.register(g); err != nil {
		f.Fatal(err)
	}
	for _, h := range []hello{{}, {Cluster: "c1", From: ids["a"].ServerID, To: id.ServerID, Promise: testPromise}, {Cluster: "c1", Departed: 3}, {Cluster: "c1", Renew: []byte{1}}} {
		var b bytes.Buffer
		if err := writeFrame(&b, h); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte{recordTypeHandshake, 3, 1, 0, 4, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &said{r: bytes.NewReader(b)}
		if err := l.welcome(c); err == nil && !c.closed {
			t.Fatal("he was let in")
		}
		if len(g.conns) > 0 || len(g.open) > 0 {
			t.Fatal("he was given to the group")
		}
		if c.answer.Len() > len(helloMagic)+2+helloMax {
			t.Fatalf("he was told %d bytes", c.answer.Len())
		}
	})
}

// FuzzIdentity: an identity that is taken is valid, and is saved as the same.
func FuzzIdentity(f *testing.F) {
	ids := identities(testPromise, map[string]string{"a": "h:1", "b": "h:2", "w": "h:3"})
	for _, id := range ids {
		b, err := json.Marshal(id)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`null`))
	dir := f.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := os.Mkdir(from, 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(filepath.Join(from, identityFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		id, err := LoadIdentity(from)
		if err != nil {
			return
		}
		os.Remove(filepath.Join(to, identityFile)) // of an earlier input
		if err := id.Save(to); err != nil {
			t.Fatal(err)
		}
		again, err := LoadIdentity(to)
		if err != nil || !reflect.DeepEqual(again, id) {
			t.Fatalf("%+v became %+v, %v", id, again, err)
		}
		if self := id.self(); self.ServerID != id.ServerID || len(id.voters()) > 3 || len(id.Members()) != 3 {
			t.Fatalf("%+v", id)
		}
	})
}

// FuzzEnrolment: an enrolment that is taken has the member's certificates, and can be used.
func FuzzEnrolment(f *testing.F) {
	ids := identities(testPromise, map[string]string{"a": "h:1", "b": "h:2", "w": "h:3"})
	a, err := pki.NewAuthority(ids["w"].ClusterID, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"b", "w"} {
		e, err := ids[name].Enrolment(a, time.Hour)
		if err != nil {
			f.Fatal(err)
		}
		b, err := json.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"identity":{},"certificates":{}}`))
	dir := f.TempDir()
	file, to := filepath.Join(dir, "enrolment.json"), filepath.Join(dir, "to")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := ReadEnrolment(file)
		if err != nil {
			return
		}
		os.RemoveAll(to) // of an earlier input
		if err := e.Save(to); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Identity.LoadCredentials(to); err != nil {
			t.Fatalf("it was taken, and cannot be used: %v", err)
		}
	})
}

// FuzzLives: what a voter knows of others is read as it was written, or not at all.
func FuzzLives(f *testing.F) {
	now := time.Unix(1, 0).UTC()
	for _, l := range []lives{
		{Server: "a-1", Log: "x", Life: 3, Nonce: "n", Others: map[string]known{"b-1": {Log: "y", Life: 1, Term: 7, Index: 9}}},
		{Void: &Void{Breach: "wiped", Why: "because", By: "b-1", At: now}},
	} {
		b, err := json.Marshal(l)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"others":null}`))
	f.Add([]byte(`{"server":"a-1","life":3`))
	path := filepath.Join(f.TempDir(), livesFile)
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		m := &memory{path: path, held: map[string]uint64{}, dirty: make(chan struct{}, 1)}
		if m.load() != nil {
			return
		}
		if !json.Valid(b) {
			t.Fatalf("it is taken: %q", b)
		}
		if m.Void != nil && m.Void.At.Year() > 9999 {
			return // which JSON cannot hold
		}
		if err := m.put(m.lives); err != nil {
			t.Fatal(err)
		}
		again := &memory{path: path}
		if err := again.load(); err != nil || mustJSON(t, again.lives) != mustJSON(t, m.lives) {
			t.Fatalf("%+v became %+v, %v", m.lives, again.lives, err)
		}
		for server, k := range m.Others {
			_, _ = k.judge(claim{Log: "x", Life: 1})
			m.saw(server, 1, 1, 1)
		}
	})
}

// sink is a snapshot in memory.
type sink struct{ bytes.Buffer }

func (*sink) ID() string    { return "" }
func (*sink) Close() error  { return nil }
func (*sink) Cancel() error { return nil }

// FuzzRestore: a snapshot that is taken is given on as the same, whatever is in it, and the commands that follow it are applied or refused.
func FuzzRestore(f *testing.F) {
	members := []record.Member{{Name: "a", ServerID: "a-1", Role: record.Data}, {Name: "b", ServerID: "b-1", Role: record.Data}, {Name: "w", ServerID: "w-1", Role: record.Witness}}
	next := []record.Command{
		{Kind: record.Init, By: "a", Node: "a", ClusterID: "c", SystemID: 7, Members: members},
		{Kind: record.Timeline, Epoch: 1, By: "a", Timeline: 1}, {Kind: record.Pair, Epoch: 1, By: "a", Node: "b", Timeline: 1},
		{Kind: record.Promote, Epoch: 1, By: "b", Node: "b", Timeline: 1}, {Kind: record.Force, Epoch: 1, By: "b", Node: "b"},
		{Kind: record.Replace, Epoch: 1, By: "a", Node: "b", OldServerID: "b-1", ServerID: "b-2"}, {Kind: record.Alone, Epoch: 1, By: "a", Node: "a", ServerID: "a-2"},
		{Kind: record.Solo, Epoch: 1, By: "a"}, {Kind: record.Pause, Epoch: 1, By: "a"},
	}
	var r record.Record
	for _, c := range next[:3] {
		if changed, err := r.Apply(c); err == nil {
			r = changed
		}
		b, err := json.Marshal(applied{Index: 7, Record: r})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, []byte("nonsense"))
	}
	f.Add([]byte(`{"Record":{"epoch":1,"inSync":["a"],"primary":"a","members":[{"name":"a","role":"data"}]}}`), []byte(`{"kind":"pause","epoch":1,"by":"a"}`))
	log := slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, snapshot, command []byte) {
		one := newFSM(log, func() {})
		if one.Restore(io.NopCloser(bytes.NewReader(snapshot))) != nil {
			return
		}
		s, err := one.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		var out sink
		if err := s.Persist(&out); err != nil {
			t.Fatal(err)
		}
		other := newFSM(log, func() {})
		if err := other.Restore(io.NopCloser(&out)); err != nil {
			t.Fatal(err)
		}
		commands := [][]byte{command}
		for _, c := range next {
			c.Epoch = one.state.Load().Record.Epoch
			b, err := c.Encode()
			if err != nil {
				t.Fatal(err)
			}
			commands = append(commands, b)
		}
		for i, c := range commands {
			l := &raft.Log{Index: uint64(100 + i), Data: c}
			x, y := one.Apply(l), other.Apply(l)
			if (x == nil) != (y == nil) || mustJSON(t, one.state.Load()) != mustJSON(t, other.state.Load()) {
				t.Fatalf("two replicas differ: %v, %v\n%+v\n%+v", x, y, one.state.Load(), other.state.Load())
			}
		}
	})
}
