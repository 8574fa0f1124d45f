package pgrelay

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever is refused again and again is one line, and then one a minute.
func TestRefusalsAreNotLoggedEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r, err := New(Config{Gate: &fakeGate{}, Socket: "/nowhere", MaxConnections: 1, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			r.refused(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: i}, errors.New("no such user"))
			r.complain("too many", "bound", 1)
		}
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Errorf("%d lines:\n%s", n, &log)
		}
		log.Reset()
		r.refused(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 8), Port: 1}, errors.New(strings.Repeat("of his own words ", 10_000)))
		if n := log.Len(); n < reasonMax || n > 2*reasonMax {
			t.Errorf("a long reason is logged with %d bytes", n)
		}
		log.Reset()
		time.Sleep(time.Minute) // of the bubble's
		r.refused(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1}, errors.New("no such user"))
		r.complain("too many", "bound", 1)
		if n := strings.Count(log.String(), "unsaid=99"); n != 2 {
			t.Errorf("a minute later:\n%s", &log)
		}
	})
}
