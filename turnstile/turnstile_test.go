package turnstile

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

type addr string

func (addr) Network() string  { return "tcp" }
func (a addr) String() string { return string(a) }

func TestOneSourceCannotKeepOthersOut(t *testing.T) {
	s := New(6, 3)
	var leave []func()
	enter := func(from addr) error {
		l, err := s.Enter(from)
		if err == nil {
			leave = append(leave, l)
		}
		return err
	}
	for i, step := range []struct {
		from addr
		want string
	}{
		{"10.0.0.1:1", ""}, {"10.0.0.1:2", ""}, {"[::ffff:10.0.0.1]:3", ""}, {"10.0.0.1:4", "from there"},
		{"10.0.0.2:1", ""}, {"[2001:db8::1]:1", ""}, {"[2001:db8::2]:1", ""}, {"10.0.0.3:1", "6 connections are open"},
	} {
		if err := enter(step.from); (err == nil) != (step.want == "") || err != nil && !strings.Contains(err.Error(), step.want) {
			t.Errorf("%d, %s: %v, want %q", i, step.from, err, step.want)
		}
	}
	if open, refused := s.Count(); open != 6 || refused != 2 {
		t.Errorf("%d are open, %d were refused", open, refused)
	}
	for _, l := range leave {
		l()
	}
	if open, _ := s.Count(); open != 0 || len(s.of) != 0 {
		t.Errorf("%d are counted when all have left: %v", open, s.of)
	}
	if err := enter("10.0.0.1:5"); err != nil {
		t.Errorf("after all have left: %v", err)
	}
}

// In an IPv6 network of one /64 everybody is one source: those that are known are not.
func TestWhoIsKnownHasItsOwnRoom(t *testing.T) {
	s := New(6, 2)
	s.Know("2001:db8::2")
	s.Know("a.example") // nothing is known of where that is
	for _, step := range []struct {
		from  addr
		enter bool
	}{
		{"[2001:db8::1]:1", true}, {"[2001:db8::3]:1", true}, {"[2001:db8::4]:1", false},
		{"[2001:db8::2]:1", true}, {"[2001:db8::2]:2", true}, {"[2001:db8::2]:3", false},
	} {
		if _, err := s.Enter(step.from); (err == nil) != step.enter {
			t.Errorf("%s: %v", step.from, err)
		}
	}
}

func TestSourceIsTheHost(t *testing.T) {
	for in, want := range map[addr]string{
		"192.0.2.1:80": "192.0.2.1", "[::ffff:192.0.2.1]:80": "192.0.2.1", "[2001:db8:1:2:3::4]:80": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80": "fe80::1", "[::1]:80": "::1", "@": "@", "": "",
	} {
		if got := Source(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if Source(nil) != "" {
		t.Error("nobody is somebody")
	}
}

// fakeListener accepts what it is given.
type fakeListener chan net.Conn

func (f fakeListener) Accept() (net.Conn, error) {
	if c, ok := <-f; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (f fakeListener) Close() error   { close(f); return nil }
func (f fakeListener) Addr() net.Addr { return addr("here") }

func TestAConnectionWithoutRoomIsClosedAndTheNextIsTaken(t *testing.T) {
	f := make(fakeListener, 4)
	var refusals []string
	ln := New(1, 1).Wrap(f, func(from net.Addr, why error) { refusals = append(refusals, from.String()+": "+why.Error()) })
	far := make([]net.Conn, 2)
	for i := range far {
		near, other := net.Pipe()
		far[i] = other
		f <- near
	}
	first, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	next := make(chan net.Conn)
	go func() {
		c, _ := ln.Accept() // takes the second, refuses it, and waits
		next <- c
	}()
	if _, err := far[1].Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("the second was not closed: %v", err)
	}
	first.Close()
	first.Close() // counts once
	near, third := net.Pipe()
	defer third.Close()
	f <- near
	c := <-next
	if c == nil {
		t.Fatal("there is no room for the third, although the first has left")
	}
	c.Close()
	if len(refusals) != 1 || !strings.Contains(refusals[0], "pipe: 1 connections are open already") {
		t.Errorf("%q", refusals)
	}
	ln.Close()
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}
