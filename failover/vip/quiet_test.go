package vip

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// Whoever is on the segment can claim the address, each time with another hardware address: that is a handful of lines a minute.
func TestClaimsOfAStrangerAreNotLoggedEachTime(t *testing.T) {
	var log bytes.Buffer
	inBubble(t, func(t *testing.T, r *rig) {
		r.role.set(1)
		r.after(time.Second)
		log.Reset()
		for i := range 500 {
			r.keepers[0].heard(Claim{Address: r.keepers[0].vip.Address.Addr(), MAC: fmt.Sprintf("02:00:00:00:%02x:%02x", i/256, i%256)})
			r.after(100 * time.Millisecond)
		}
		if n := strings.Count(log.String(), "\n"); n == 0 || n > 20 {
			t.Errorf("%d lines in 50 s:\n%.2000s", n, &log)
		}
		if s := r.Status()[0]; s.Conflicts < 400 {
			t.Errorf("%d claims were counted", s.Conflicts)
		}
	}, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
}
