package joining

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"kineshim/pki"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
)

// FuzzFrame: what a stranger has read is bounded, and is written as the same.
func FuzzFrame(f *testing.F) {
	var b bytes.Buffer
	if err := writeFrame(&b, Request{Secret: []byte{1}, CSR: []byte{2}, Name: "b", Host: "h", Raft: "h:1", PostgresMajor: 17}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		var q Request
		err := readFrame(r, &q)
		if read := len(b) - r.Len(); read > 4+maxFrame {
			t.Fatalf("%d bytes were read", read)
		}
		if err != nil {
			return
		}
		var again bytes.Buffer
		if writeFrame(&again, q) != nil {
			return // escaped, it is longer than what is read
		}
		var got Request
		if err := readFrame(&again, &got); err != nil || mustText(t, got) != mustText(t, q) {
			t.Fatalf("%+v became %+v, %v", q, got, err)
		}
	})
}

func mustText(t *testing.T, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// stranger is a connection on which something was said.
type stranger struct {
	net.Conn
	r      *bytes.Reader
	answer bytes.Buffer
}

func (s *stranger) Read(b []byte) (int, error)  { return s.r.Read(b) }
func (s *stranger) Write(b []byte) (int, error) { return s.answer.Write(b) }
func (s *stranger) Close() error                { return nil }
func (s *stranger) RemoteAddr() net.Addr        { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 7} }

// FuzzServe: whatever a machine says without a token, it is told no more than that it is refused, and the list stays as it is.
func FuzzServe(f *testing.F) {
	book := Book{Dir: f.TempDir()}
	list := New("0123456789abcdef", time.Second, raftwitness.Peer{Member: record.Member{Name: "a", ServerID: "a-1", Role: record.Data}, Raft: "10.0.0.1:1"})
	for _, role := range list.Missing() {
		if _, err := list.Invite(role, [32]byte{1}, 100*365*24*time.Hour, time.Now()); err != nil {
			f.Fatal(err)
		}
	}
	if err := book.Save(list); err != nil {
		f.Fatal(err)
	}
	before := list.Missing()
	h := &Host{Book: book, Log: slog.New(slog.DiscardHandler)}
	frame := func(q Request) []byte {
		var b bytes.Buffer
		if err := writeFrame(&b, q); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	key, err := pki.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	csr, err := pki.Request(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame(Request{Secret: make([]byte, secretBytes), CSR: csr, Name: "b", Host: "h", Raft: "10.0.0.2:1", Peer: "10.0.0.2:2", Postgres: "10.0.0.2:3"}))
	f.Add(frame(Request{}))
	f.Add(frame(Request{Secret: make([]byte, secretBytes), Name: "b", Host: strings.Repeat("h", 1000), Raft: "h:1", Dry: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &stranger{r: bytes.NewReader(b)}
		h.Serve(t.Context(), c)
		if c.answer.Len() == 0 {
			return
		}
		if c.answer.Len() > 4*errorMax {
			t.Fatalf("he was told %d bytes", c.answer.Len())
		}
		var a Answer
		if err := readFrame(&c.answer, &a); err != nil || a.Error == "" || a.Enrolment != nil || a.Founder != "" {
			t.Fatalf("he was told %+v, %v", a, err)
		}
		now, err := book.Load()
		if err != nil || len(now.Missing()) != len(before) {
			t.Fatalf("he is on the list: %v", err)
		}
	})
}
