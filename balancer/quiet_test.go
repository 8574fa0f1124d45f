package balancer

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What clients can bring about at will is one line, and then one a minute.
func TestComplaintsAreNotLoggedEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b, err := New(Config{Servers: []string{"127.0.0.1:1"}, MaxConnections: 1, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			b.complain("too many", "bound", 1)
		}
		time.Sleep(time.Minute) // of the bubble's
		b.complain("too many", "bound", 1)
		if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "unsaid=99") {
			t.Errorf("%d lines:\n%s", n, &log)
		}
	})
}
