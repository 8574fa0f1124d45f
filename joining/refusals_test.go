package joining

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A machine that is refused again and again, under another name each time, is a handful of lines a minute, whatever it says.
func TestRefusalsAreNotLoggedEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log, frame bytes.Buffer
		h := &Host{Log: slog.New(slog.NewTextHandler(&log, nil))}
		if err := writeFrame(&frame, Request{Name: "b", Host: strings.Repeat("h", 100_000)}); err != nil {
			t.Fatal(err)
		}
		for range 200 {
			h.Serve(t.Context(), &stranger{r: bytes.NewReader(frame.Bytes())})
			h.Serve(t.Context(), &stranger{r: bytes.NewReader([]byte("nonsense"))})
		}
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Errorf("%d lines", n)
		}
		if log.Len() > 2000 {
			t.Errorf("%d bytes", log.Len())
		}
		time.Sleep(time.Minute) // of the bubble's
		h.Serve(t.Context(), &stranger{r: bytes.NewReader(frame.Bytes())})
		if !strings.Contains(log.String(), "unsaid=199") {
			t.Errorf("a minute later: %s", &log)
		}
	})
}
