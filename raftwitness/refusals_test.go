package raftwitness

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A stranger who is refused again and again, each time for what he has made up anew, is a handful of lines a minute.
func TestRefusalsOfAStrangerAreNotLoggedEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := newRefusals(slog.New(slog.NewTextHandler(&log, nil)))
		from := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7)}
		for i := range 1000 {
			from.Port = 1000 + i
			r.refused(from, errors.New("read hello: EOF"))
			r.refused(from, fmt.Errorf("cluster %q is not known here", strings.Repeat(fmt.Sprint(i), 1000)))
		}
		if n := strings.Count(log.String(), "\n"); n < 2 || n > 5 {
			t.Errorf("%d lines", n)
		}
		if log.Len() > 3000 {
			t.Errorf("%d bytes", log.Len())
		}
		log.Reset()
		time.Sleep(time.Minute) // of the bubble's
		r.refused(from, errors.New("read hello: EOF"))
		if !strings.Contains(log.String(), "unsaid=999") || !strings.Contains(log.String(), "192.0.2.7:") {
			t.Errorf("a minute later: %s", &log)
		}
	})
}

// One address that fills all the room it is given leaves room for others.
func TestStrangersAtOneAddressLeaveRoomForVoters(t *testing.T) {
	t.Parallel()
	l := newTestListener(t, "w")
	for range 2 * maxGreetingOfOne {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	eventually(t, "the stranger is refused", func() bool { _, refused := l.greeting.Count(); return refused > 0 })
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	c, err := d.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Skipf("no second loopback address here: %v", err)
	}
	defer c.Close()
	valid := hello{Cluster: "unknown"}
	if err := writeFrame(c, valid); err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	var r helloReply
	if err := readFrame(c, &r); err != nil || !strings.Contains(r.Error, "not known here") {
		t.Errorf("a voter at another address is not heard: %+v, %v", r, err)
	}
}
